import json

import pytest
import torch

from mura_hf import StudyPredictor, load_mura, read_radiograph
from mura_hf.evaluation.randomization import _layers, _shuffle, measure_randomization
from tests.conftest import make_checkpoint, make_model


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree)["valid"]


def test_heatmaps_of_what_was_learned_are_not_those_of_shuffled_weights(rows):
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    found = measure_randomization(predictor, rows, n_views=6, n_seeds=2, steps=3, progress=False)
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
        "mura_hf.evaluation.randomization.find_heatmap",
        lambda _, row: read_radiograph(row["image"]["path"]).pixels,
    )
    found = measure_randomization(predictor, rows, n_views=2, n_seeds=1, steps=1, progress=False)
    assert found["median_absolute_correlation"] == pytest.approx(1)


def test_the_cascade_goes_from_the_answer_down(rows):
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    found = measure_randomization(predictor, rows, n_views=3, n_seeds=1, steps=2, progress=False)
    assert [step["layers"] for step in found["cascade"]] == [0.5, 1.0]
    for family in ("mura", "mura_fusenet", "mura_ensemble", "mura_specialized", "mura_metric_learning"):
        model = make_model(family)
        stacks = _layers(model)
        once = {id(module): module for stack in stacks for module in stack}
        held = {id(values) for module in once.values() for values in module.parameters(recurse=False)}
        assert held == {id(values) for values in model.parameters()}  # all weights, of every network
        assert all("conv1" not in name for name, module in model.named_modules() if module in [s[0] for s in stacks])


def test_a_shuffled_layer_keeps_its_values_and_leaves_others_alone():
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _shuffle(model.classifier.parameters(), seed=0)
    for name, value in model.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
        assert torch.equal(value, before[name]) == (name != "classifier.weight" and name != "classifier.bias") or (
            name == "classifier.bias"  # of two values, which may stay in order
        )


def test_a_model_without_heatmaps_says_so(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("mura_hf.models.modeling_mura.find_map_layer", lambda *given: None)
    folder = make_checkpoint(tmp_path / "vit", backbone="vit_tiny_patch16_224")
    found = measure_randomization(StudyPredictor.from_pretrained(folder, device="cpu"), rows, n_views=1, n_seeds=1)
    assert list(found) == ["none"]
    assert "No heatmap" in found["none"]
