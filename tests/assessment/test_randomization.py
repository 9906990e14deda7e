import json

import pytest

from mura_hf import StudyPredictor, load_mura
from mura_hf.assessment.randomization import measure_randomization
from tests.conftest import make_checkpoint


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree)["valid"]


def test_heatmaps_of_what_was_learned_are_not_those_of_shuffled_weights(rows):
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    found = measure_randomization(predictor, rows, n_views=6, n_seeds=2, progress=False)
    assert json.loads(json.dumps(found)) == found
    assert (found["n"], found["seeds"]) == (6, 2)
    assert found["low"] <= found["median_absolute_correlation"] <= found["high"]
    assert found["median_absolute_correlation"] < 0.6
    assert found["constant_shuffled"] < 0.5
    after = predictor.model.state_dict()
    assert all(value.equal(after[name]) for name, value in before.items())  # the checkpoint's own stay


def test_maps_that_do_not_depend_on_weights_are_caught(rows, monkeypatch):
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    # A "heatmap" that is the picture itself.
    monkeypatch.setattr(
        "mura_hf.assessment.randomization._heatmap",
        lambda _, row: predictor._read(row["image"]["path"], "x").pixels.ravel(),
    )
    found = measure_randomization(predictor, rows, n_views=2, n_seeds=1, progress=False)
    assert found["median_absolute_correlation"] == pytest.approx(1)


def test_a_model_without_heatmaps_says_so(rows, tmp_path):
    folder = make_checkpoint(tmp_path / "vit", backbone="vit_tiny_patch16_224")
    found = measure_randomization(StudyPredictor.from_pretrained(folder, device="cpu"), rows, n_views=1, n_seeds=1)
    assert list(found) == ["none"]
    assert "No heatmap" in found["none"]
