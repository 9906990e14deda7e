import json

import pytest
import torch

from mura_hf import StudyPredictor, read_radiograph
from mura_hf.evaluation.saliency import (
    _curves,
    _layers,
    _shuffle,
    measure_insertion_deletion,
    measure_randomization,
    select_abnormal,
)
from mura_hf.explain import Heatmaps
from tests.checkpoints import make_checkpoint, make_model


def test_heatmaps_of_a_trained_model_differ_from_those_of_shuffled_weights(rows, monkeypatch):
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    found = measure_randomization(predictor, rows, n_views=4, n_seeds=2, steps=2)
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
        "mura_hf.evaluation.saliency.find_heatmap",
        lambda _, row: read_radiograph(row["image"]["path"]).pixels,
    )
    found = measure_randomization(predictor, rows, n_views=2, n_seeds=1, steps=1)
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


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", make_model())
    return StudyPredictor.from_pretrained(folder, device="cpu")


def test_curves_of_a_known_heatmap(predictor, train_rows, monkeypatch):
    row = select_abnormal(train_rows, 1)[0]
    pixels = predictor.pixel_values([read_radiograph(row["image"]["path"])])
    side = pixels.shape[-1]
    rising = torch.arange(side * side).view(1, side, side) / side**2  # hottest at the bottom
    heatmaps = Heatmaps(rising, "grad_cam", [(2, 2)])
    monkeypatch.setattr("mura_hf.evaluation.saliency.explain", lambda model, values: heatmaps)
    curves = _curves(predictor, row, 4, 0)

    def probability(images):
        with torch.no_grad():
            return float(predictor.model.classify_views(images).logits.softmax(-1)[0, 1])

    mean = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    half = torch.cat([pixels[:, :, : side // 2], mean[:, :, side // 2 :]], dim=2)
    assert curves["deletion"].shape == curves["insertion"].shape == (2, 5)
    for by in (0, 1):
        assert curves["deletion"][by, 0] == pytest.approx(probability(pixels), abs=1e-4)
        assert curves["deletion"][by, -1] == pytest.approx(probability(mean), abs=1e-4)
        assert curves["insertion"][by, -1] == pytest.approx(probability(pixels), abs=1e-4)
    assert abs(probability(half) - probability(pixels)) > 1e-4
    assert curves["deletion"][0, 2] == pytest.approx(probability(half), abs=1e-4)


def test_areas_are_compared_with_those_of_random_maps(predictor, train_rows):
    found = measure_insertion_deletion(predictor, train_rows, n_views=6, steps=5)
    assert json.loads(json.dumps(found)) == found
    assert 0 < found["n"] <= 6
    for name in ("deletion", "insertion"):
        row = found[name]
        assert row["difference"] == pytest.approx(row["area"] - row["random_area"])
        assert row["low"] <= row["difference"] <= row["high"]


def test_abnormal_views_are_selected_if_there_are_some(train_rows):
    assert set(select_abnormal(train_rows, 5)["label"]) == {1}
    assert len(select_abnormal(train_rows, 5)) == 5
    normal = train_rows.filter(lambda row: row["label"] == 0)
    assert len(select_abnormal(normal, 3)) == 3
