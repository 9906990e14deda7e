import json

import numpy as np
import pytest
import torch

from mura_hf import StudyPredictor, read_radiograph
from mura_hf.evaluation.insertion_deletion import _curves, measure_insertion_deletion
from mura_hf.evaluation.pointing_game import select_abnormal
from mura_hf.explain import Heatmaps
from tests.conftest import make_checkpoint, make_model


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", make_model())
    return StudyPredictor.from_pretrained(folder, device="cpu")


def test_curves_of_a_known_heatmap(predictor, train_rows, monkeypatch):
    row = select_abnormal(train_rows, 1)[0]
    pixels = predictor.pixel_values([read_radiograph(row["image"]["path"])])
    side = pixels.shape[-1]
    rising = torch.arange(side * side).view(1, side, side) / side**2  # hottest at the bottom
    heatmaps = Heatmaps(rising, "head_gradient", [(2, 2)])
    monkeypatch.setattr("mura_hf.evaluation.insertion_deletion.explain", lambda model, values: heatmaps)
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
    found = measure_insertion_deletion(predictor, train_rows, n_views=6, steps=5, progress=False)
    assert json.loads(json.dumps(found)) == found
    assert 0 < found["n"] <= 6
    for name in ("deletion", "insertion"):
        row = found[name]
        assert len(row["curve"]) == len(row["random_curve"]) == 6
        assert row["area"] == pytest.approx(np.trapezoid(row["curve"], dx=0.2), abs=1e-3)
        assert row["difference"] == pytest.approx(row["area"] - row["random_area"])
        assert row["low"] <= row["difference"] <= row["high"]


def test_abnormal_views_are_selected_if_there_are_some(train_rows):
    assert set(select_abnormal(train_rows, 5)["label"]) == {1}
    assert len(select_abnormal(train_rows, 5)) == 5
    normal = train_rows.filter(lambda row: row["label"] == 0)
    assert len(select_abnormal(normal, 3)) == 3
