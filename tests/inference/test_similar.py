"""Studies like this one, through the predictor."""

import shutil

import numpy as np
import pytest
import torch

from mura_hf import CheckpointError, MuraImageProcessor, RetrievalIndex, StudyPredictor, load_mura, read_radiograph
from mura_hf.models import CLASSIFIERS
from mura_hf.retrieval import view_codes
from tests.conftest import make_checkpoint, make_model
from tests.inference.external import save_external


@pytest.fixture(scope="module")
def indexed(checkpoint, phantom_tree, tmp_path_factory):
    """A checkpoint with an index of its training studies."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("indexed") / "checkpoint")
    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    rows = load_mura(phantom_tree)["train"]
    index = RetrievalIndex.build(rows, predictor.model, predictor.processor, progress=False)
    index.save(folder / "retrieval")
    return folder


@pytest.mark.parametrize("family", list(CLASSIFIERS))
def test_codes_come_with_the_answer(family, phantom_files, tmp_path):
    predictor = StudyPredictor.from_pretrained(make_checkpoint(tmp_path, make_model(family)), device="cpu")
    answer = predictor(phantom_files, heatmaps=False)
    pixel_values = MuraImageProcessor.from_pretrained(tmp_path)(
        [read_radiograph(file).pixels for file in phantom_files], return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        output = predictor.model(pixel_values[None])
    np.testing.assert_allclose(answer.codes, view_codes(predictor.model, output.views), rtol=1e-5, atol=1e-5)
    assert "codes" not in answer.to_dict()


def test_finds_itself_first_by_one_forward_pass(indexed, phantom_files, monkeypatch):
    predictor = StudyPredictor.from_pretrained(indexed, device="cpu")
    answer = predictor(phantom_files)
    calls = []
    monkeypatch.setattr(predictor, "_run", lambda *args: calls.append(args))
    found = predictor.similar(answer, k=3)
    assert not calls
    assert found[0].distance == pytest.approx(0, abs=1e-3)
    assert found[0].study_id in phantom_files[0]
    assert len({one.study_id for one in found}) == 3
    monkeypatch.undo()
    assert [one.row for one in predictor.similar(phantom_files, k=3)] == [one.row for one in found]
    assert {one.body_part for one in predictor.similar(answer, body_part="hand")} == {"hand"}
    again = predictor.index.search(phantom_files, k=3)
    assert [one.row for one in again] == [one.row for one in found]


def test_says_where_there_is_no_index(checkpoint, phantom_files):
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
    assert predictor.index is None
    with pytest.raises(CheckpointError, match=r"has no index of studies; build one with scripts/build_index\.py"):
        predictor.similar(phantom_files)


def test_an_index_of_other_weights_is_refused_and_the_answer_is_not(indexed, phantom_files, tmp_path):
    folder = make_checkpoint(tmp_path / "other", make_model())
    shutil.copytree(indexed / "retrieval", folder / "retrieval")
    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    assert predictor(phantom_files).codes.shape == (len(phantom_files), 32)
    with pytest.raises(CheckpointError, match="made with other weights"):
        predictor.similar(phantom_files)


def test_a_stranger_without_a_feature_map_answers_without_codes(phantom_files, tmp_path):
    for kind, has in (("resnet", True), ("hiera", False)):
        predictor = StudyPredictor.from_pretrained(save_external(tmp_path / kind, kind), device="cpu")
        assert (predictor(phantom_files).codes is not None) == has
