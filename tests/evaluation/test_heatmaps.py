"""Added findings, deletion and insertion."""

import json

import numpy as np
import pytest
import torch

from mura_hf import StudyPredictor, load_mura, read_radiograph
from mura_hf.evaluation.insertion_deletion import _curves, measure_erasing
from mura_hf.evaluation.pointing_game import measure_following, take_abnormal
from mura_hf.explain import Heatmaps


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=0.0, calib_fraction=0.0)["train"]


@pytest.fixture(scope="module")
def predictor():
    return StudyPredictor.from_pretrained("mura-phantom", device="cpu")


def test_heat_follows_a_finding_that_is_added(predictor):
    found = measure_following(predictor, 14, size=256, progress=False)
    assert json.loads(json.dumps(found)) == found
    overall = found["overall"]
    assert 0 < overall["n"] <= 14
    assert sum(row["n"] for name, row in found.items() if name != "overall") == overall["n"]
    assert overall["difference"] == pytest.approx(overall["inside"] - overall["inside_without"])
    assert overall["low"] <= overall["difference"] <= overall["high"]
    assert overall["inside"] > overall["area"]


def test_a_model_that_does_not_see_the_finding_follows_nothing(predictor, monkeypatch):
    blind = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    inner = blind.pixel_values
    monkeypatch.setattr(blind, "pixel_values", lambda radiographs: inner(radiographs) * 0 + torch.linspace(0, 1, 384))
    found = measure_following(blind, 7, size=128, progress=False)
    assert found["overall"]["difference"] == 0


def test_curves_by_hand(predictor, rows, monkeypatch):
    row = take_abnormal(rows, 1)[0]
    pixels = predictor.pixel_values([read_radiograph(row["image"]["path"])])
    rising = torch.arange(384 * 384).view(1, 384, 384) / 384**2  # hottest at the bottom
    monkeypatch.setattr(
        "mura_hf.evaluation.insertion_deletion.explain",
        lambda model, values: Heatmaps(rising, "head_gradient", [(12, 12)]),
    )
    curves = _curves(predictor, row, 4, 0)

    def chance(pictures):
        with torch.no_grad():
            return float(predictor.model.classify_views(pictures).logits.softmax(-1)[0, 1])

    mean = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    half = torch.cat([pixels[:, :, :192], mean[:, :, 192:]], dim=2)
    assert curves["deletion"].shape == curves["insertion"].shape == (2, 5)
    for by in (0, 1):
        assert curves["deletion"][by, 0] == pytest.approx(chance(pixels), abs=1e-4)
        assert curves["deletion"][by, -1] == pytest.approx(chance(mean), abs=1e-4)
        assert curves["insertion"][by, -1] == pytest.approx(chance(pixels), abs=1e-4)
    assert curves["deletion"][0, 2] == pytest.approx(chance(half), abs=0.02)


def test_areas_stand_beside_those_of_random_maps(predictor, rows):
    found = measure_erasing(predictor, rows, n_views=6, steps=5, progress=False)
    assert json.loads(json.dumps(found)) == found
    assert 0 < found["n"] <= 6
    for name in ("deletion", "insertion"):
        row = found[name]
        assert len(row["curve"]) == len(row["random_curve"]) == 6
        assert row["area"] == pytest.approx(np.trapezoid(row["curve"], dx=0.2), abs=1e-3)
        assert row["difference"] == pytest.approx(row["area"] - row["random_area"])
        assert row["low"] <= row["difference"] <= row["high"]


def test_abnormal_views_are_taken_where_there_are_some(rows):
    assert set(take_abnormal(rows, 5)["label"]) == {1}
    assert len(take_abnormal(rows, 5)) == 5
    normal = rows.filter(lambda row: row["label"] == 0)
    assert len(take_abnormal(normal, 3)) == 3
