import numpy as np
import pytest

from mura_hf import StudyPredictor
from mura_hf.assessment import measure_twins
from mura_hf.models import BODY_PARTS
from mura_hf.phantoms import FINDINGS


class _Study:
    def __init__(self, probability):
        self.probability = probability


class _Brightness:
    """Answers with the mean brightness: metal and markers move it up, and little else."""

    def __call__(self, views, body_part, heatmaps):
        assert body_part in BODY_PARTS  # models by part need to be told
        assert not heatmaps
        return _Study(float(np.mean([np.mean(view) / 255 for view in views])))


def test_differences_are_those_of_the_pictures():
    report = measure_twins(_Brightness(), 28, size=96, progress=False)
    assert report["finding"]["n"] == report["marker"]["n"] == 28
    assert report["ring"]["n"] == 16  # elbows, humeri and shoulders wear none
    assert report["marker"]["median"] > 0
    assert report["ring"]["median"] > 0
    assert report["hardware"]["median"] > report["subtle_fracture"]["median"]
    assert sum(report[kind]["n"] for kind in FINDINGS if kind in report) == 28
    for row in report.values():
        assert row["low"] <= row["median"] <= row["high"]


def test_the_same_seed_gives_the_same_figures(checkpoint):
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
    first, again = (measure_twins(predictor, 4, seed=5, size=96, progress=False) for _ in range(2))
    assert first == again
    assert first["finding"] != pytest.approx(measure_twins(predictor, 4, seed=50, size=96, progress=False)["finding"])
