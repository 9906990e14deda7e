import json

import pytest
import torch

from mura_hf import StudyPredictor, read_radiograph
from mura_hf.evaluation.randomization import _layers, _shuffle, measure_randomization
from tests.conftest import make_model


def test_heatmaps_of_a_trained_model_differ_from_those_of_shuffled_weights(rows, monkeypatch):
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    found = measure_randomization(predictor, rows, n_views=4, n_seeds=2, steps=2, progress=False)
    assert json.loads(json.dumps(found)) == found
    assert (found["n"], found["seeds"]) == (4, 2)
    assert found["low"] <= found["median_absolute_correlation"] <= found["high"]
    assert found["median_absolute_correlation"] < 0.6
    assert found["constant_shuffled"] < 0.5
    assert [step["layers"] for step in found["cascade"]] == [0.5, 1.0]
    after = predictor.model.state_dict()
    assert all(value.equal(after[name]) for name, value in before.items())  # the checkpoint is unchanged

    # A "heatmap" that is the image itself does not depend on weights.
    monkeypatch.setattr(
        "mura_hf.evaluation.randomization.find_heatmap",
        lambda _, row: read_radiograph(row["image"]["path"]).pixels,
    )
    found = measure_randomization(predictor, rows, n_views=2, n_seeds=1, steps=1, progress=False)
    assert found["median_absolute_correlation"] == pytest.approx(1)


@pytest.mark.parametrize(
    "family", ["mura", "mura_fusenet", "mura_ensemble", "mura_specialized", "mura_metric_learning"]
)
def test_the_cascade_goes_from_the_output_down_to_all_weights(family):
    model = make_model(family)
    stacks = _layers(model)
    modules = {id(module): module for stack in stacks for module in stack}
    held = {id(values) for module in modules.values() for values in module.parameters(recurse=False)}
    assert held == {id(values) for values in model.parameters()}
    names = {id(module): name for name, module in model.named_modules()}
    assert all("conv1" not in names[id(stack[0])] for stack in stacks)


def test_a_shuffled_layer_keeps_its_values_and_leaves_others_alone():
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _shuffle(model.classifier.parameters(), seed=0)
    for name, value in model.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
        if name != "classifier.bias":  # it has two values, which may stay in order
            assert torch.equal(value, before[name]) == (name != "classifier.weight")
