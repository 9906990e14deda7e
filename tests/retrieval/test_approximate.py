import builtins

import numpy as np
import pytest
import torch

from mura_hf import CheckpointError
from mura_hf.retrieval import ExactSearcher
from mura_hf.retrieval.search import FaissSearcher
from tests.retrieval.clusters import clustered_codes

CODES, QUERIES = clustered_codes(2000, 32, clusters=50), clustered_codes(40, 32, clusters=50, seed=1)


def test_finds_most_and_measures_exactly_what_it_finds(tmp_path):
    built = FaissSearcher.build(CODES, "IVF16,SQ8", "nprobe=4")
    built.save(tmp_path / "index.faiss")
    expected, rows = ExactSearcher(CODES).search(QUERIES, 5)
    for searcher in (built, FaissSearcher.load(CODES, tmp_path / "index.faiss", "nprobe=4")):
        distances, found = searcher.search(QUERIES, 5)
        same = found == rows
        assert same.mean() > 0.95
        np.testing.assert_allclose(distances[same], expected[same], rtol=1e-12)
        assert (np.diff(distances) >= 0).all()


def test_asks_for_more_where_few_rows_count():
    searcher = FaissSearcher.build(CODES, "Flat")
    allowed = torch.zeros(2000, dtype=torch.bool)
    allowed[::97] = True
    each = torch.stack([allowed.roll(place) for place in range(len(QUERIES))])
    for mask in (allowed, each):
        for found, expected in zip(
            searcher.search(QUERIES, 30, mask), ExactSearcher(CODES).search(QUERIES, 30, mask), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


def test_says_what_is_wrong(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"cannot build 'Nonsense9' .* of 2000 codes"):
        FaissSearcher.build(CODES, "Nonsense9")
    with pytest.raises(ValueError, match="cannot build"):
        FaissSearcher.build(CODES, "Flat", "nosuch=3")
    with pytest.raises(ValueError, match="cannot build"):
        FaissSearcher.build(CODES[:10], "IVF64,Flat")
    (tmp_path / "x.faiss").write_bytes(b"no index")
    with pytest.raises(CheckpointError, match="cannot be read by FAISS; build"):
        FaissSearcher.load(CODES, tmp_path / "x.faiss")
    true_import = builtins.__import__

    def refuse(name, *args):
        if name == "faiss":
            raise ImportError(name)
        return true_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CheckpointError, match=r"pip install \"mura_hf\[faiss\]\""):
        FaissSearcher.build(CODES, "Flat")
