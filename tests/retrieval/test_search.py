import sys

import numpy as np
import pytest
import torch

from mura_hf import CheckpointError
from mura_hf.retrieval import ExactSearcher, FaissSearcher, search
from mura_hf.retrieval.search import check_factory


def _codes(n, width, clusters=20, noise=0.3, seed=0):
    """Codes like pooled features: never negative, in clusters that do not depend on the seed."""
    centres = torch.randn(clusters, width, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed + 1)
    chosen = torch.randint(clusters, (n,), generator=generator)
    return torch.relu(centres[chosen] + noise * torch.randn(n, width, generator=generator))


def _check(searcher, queries, k, allowed=None):
    """Compares a search with one in float64."""
    codes = searcher.codes.double().numpy()
    expected = np.stack([np.sqrt(((codes - query) ** 2).sum(1)) for query in queries.double().numpy()])
    if allowed is not None:
        expected[:, ~allowed.numpy()] = np.inf
    rows = np.argsort(expected, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(expected, rows, 1)
    rows[~np.isfinite(expected)] = -1
    distances, found = searcher.search(queries, k, allowed)
    there = rows.shape[1]
    np.testing.assert_allclose(distances[:, :there], expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(found[:, :there], rows)
    assert distances.shape == found.shape == (len(queries), k)
    assert np.isinf(distances[:, there:]).all()
    assert (found[:, there:] == -1).all()


@pytest.mark.parametrize(("noise", "origin"), [(0.0, 0), (1e-6, 0), (0.3, 0), (1e-3, 1000)])
def test_exact_search_finds_what_float64_finds(noise, origin):
    """Even if codes differ in the last digits only, or are equal, or far from the origin."""
    codes = _codes(600, 48, noise=noise) + origin
    queries = torch.cat([_codes(150, 48, noise=noise, seed=1) + origin, codes[:20]])
    for searcher in (ExactSearcher(codes), ExactSearcher(codes, search.sum_squares(codes))):
        _check(searcher, queries, 5)


def test_exact_search_among_allowed_rows():
    searcher, queries = ExactSearcher(_codes(300, 48)), _codes(7, 48, seed=2)
    generator = torch.Generator().manual_seed(0)
    _check(searcher, queries, 5, torch.rand(300, generator=generator) < 0.3)
    few = torch.zeros(300, dtype=torch.bool)
    few[[4, 90]] = True
    _check(searcher, queries, 5, few)
    _check(searcher, queries, 2, torch.zeros(300, dtype=torch.bool))
    _check(searcher, queries, 400)


CODES, QUERIES = _codes(2000, 32, clusters=50), _codes(40, 32, clusters=50, seed=1)


def test_faiss_finds_most_and_measures_exactly(tmp_path):
    built = FaissSearcher.build(CODES, "IVF16,SQ8", "nprobe=4")
    built.save(tmp_path / "index.faiss")
    expected, rows = ExactSearcher(CODES).search(QUERIES, 5)
    for searcher in (built, FaissSearcher.load(CODES, tmp_path / "index.faiss", "nprobe=4")):
        distances, found = searcher.search(QUERIES, 5)
        same = found == rows
        assert same.mean() > 0.95
        np.testing.assert_allclose(distances[same], expected[same], rtol=1e-12)
        assert (np.diff(distances) >= 0).all()


def test_faiss_asks_for_more_if_few_rows_are_allowed():
    searcher = FaissSearcher.build(CODES, "Flat")
    allowed = torch.zeros(2000, dtype=torch.bool)
    allowed[::97] = True
    _check(searcher, QUERIES, 30, allowed)


def test_faiss_errors(tmp_path, monkeypatch):
    for codes, factory, parameters in (
        (CODES, "Nonsense9", ""),
        (CODES, "Flat", "nosuch=3"),
        (CODES[:9], "IVF64", ""),
    ):
        with pytest.raises(ValueError, match=f"cannot build '{factory}' .* from {len(codes)} codes"):
            FaissSearcher.build(codes, factory, parameters)
    with pytest.raises(ValueError, match="does not know the factory string 'Nonsense'"):
        check_factory("Nonsense")
    (tmp_path / "x.faiss").write_bytes(b"no index")
    with pytest.raises(CheckpointError, match="cannot be read by FAISS; build"):
        FaissSearcher.load(CODES, tmp_path / "x.faiss")
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it fails
    with pytest.raises(CheckpointError, match=r"pip install \"mura_hf\[faiss\]\""):
        FaissSearcher.build(CODES, "Flat")
