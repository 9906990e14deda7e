import numpy as np
import pytest

from mura_hf import StudyPredictor
from mura_hf.evaluation import measure_twins
from mura_hf.evaluation.shortcuts import TELLING
from mura_hf.models import BODY_PARTS
from mura_hf.phantoms import FINDINGS


class _Study:
    threshold = 0.5

    def __init__(self, probability):
        self.probability = probability


class _Brightness:
    """Answers with the mean brightness: metal and markers move it up, blades down, and little else."""

    def __call__(self, views, body_part, heatmaps):
        assert body_part in BODY_PARTS  # models by part need to be told
        assert not heatmaps
        return _Study(float(np.mean([np.mean(view) / 255 for view in views])))


def test_differences_are_those_of_the_pictures():
    shifts = measure_twins(_Brightness(), 28, size=96, progress=False)
    report = shifts.report(TELLING)
    assert report["finding"]["n"] == report["marker"]["n"] == report["cast"]["n"] == report["metal"]["n"] == 28
    assert report["ring"]["n"] == 16  # elbows, humeri and shoulders wear none
    assert report["collimation"]["n"] >= 20
    assert report["marker"]["median"] > 0
    assert report["ring"]["median"] > 0
    assert report["cast"]["mean"] > 0 > report["collimation"]["mean"]
    assert report["hardware"]["median"] > report["subtle_fracture"]["median"]
    assert sum(report[kind]["n"] for kind in FINDINGS if kind in report) == 28
    assert report["marker"]["normal"]["n"] == report["marker"]["abnormal"]["n"] == 14
    for what in ("finding", "cast", "ring"):
        assert "abnormal" not in report[what]  # plaster and rings hide findings
    assert {report[what]["verdict"] for what in ("finding", "metal", "hardware")} == {"expected"}
    assert report["marker"]["verdict"] == "cleared"
    for what, worst in shifts.worst().items():
        for shift in worst:
            before, after = shift.pictures
            assert (before != after).any() or what not in ("marker", "collimation", "cast", "ring")


def test_the_same_seed_gives_the_same_figures(checkpoint):
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
    first, again = (measure_twins(predictor, 4, seed=5, size=96, progress=False).report() for _ in range(2))
    assert first == again
    other = measure_twins(predictor, 4, seed=50, size=96, progress=False).report()
    assert first["finding"]["mean"] != pytest.approx(other["finding"]["mean"])
