import json

import pytest

from mura_hf import StudyPredictor
from mura_hf.common import BUNDLED
from mura_hf.inference.measured_performance import OVERALL, read_measured_performance
from mura_hf.metrics import predictive_values

REPORT = {
    "weights_sha256": "abc",
    "data": {"held_out": "held-out films"},
    "operating_points": {
        "paper": {
            "threshold": 0.5,
            "chosen": "above .5",
            "groups": {
                "overall": {"confusion": [[90, 10], [5, 15]]},
                "wrist": {"confusion": [[40, 0], [2, 3]]},
                "hand": {"confusion": [[7, 1], [0, 0]]},
            },
        }
    },
    "bands": {
        "limits": {"low": 0.2, "suspected": 0.7},
        "groups": {
            "overall": {
                "low": {"n": 80, "n_abnormal": 2, "intervals": {"share": [0.5, 0.8], "abnormal": [0.003, 0.09]}},
                "uncertain": {"n": 30, "n_abnormal": 8, "intervals": {}},
                "suspected": {"n": 0, "n_abnormal": 0, "intervals": {}},
            },
            "wrist": {"low": {"n": 40, "n_abnormal": 0, "intervals": {"abnormal": [0.0, 0.07]}}},
        },
    },
}


@pytest.fixture
def read(tmp_path):
    def _read(report=REPORT, weights="abc"):
        (tmp_path / "evaluation.json").write_text(json.dumps(report) if isinstance(report, dict) else report)
        return read_measured_performance(tmp_path / "evaluation.json", weights)

    return _read


def test_counts_of_the_body_part_or_else_of_all_studies(read):
    wrist, elbow = read().get("paper", 0.5, "wrist"), read().get("paper", 0.5, "elbow")
    assert (wrist.n_abnormal, wrist.n_flagged_abnormal, wrist.n_normal, wrist.n_flagged_normal) == (5, 3, 40, 0)
    assert (wrist.sensitivity, wrist.specificity, wrist.group, wrist.held_out) == (0.6, 1.0, "wrist", "held-out films")
    assert (elbow.group, elbow.sensitivity, elbow.specificity) == (OVERALL, 0.75, 0.9)
    assert read().get("paper", 0.5, None) == elbow


def test_predictive_values_at_a_prevalence(read):
    found = read().get("paper", 0.5, None)
    # of 1,000 studies 100 are abnormal: 75 hits and 25 misses, 810 rejections and 90 alarms
    assert found.predictive_values(0.1) == pytest.approx((75 / 165, 810 / 835))
    assert found.predictive_values(0.3) == pytest.approx(predictive_values(0.75, 0.9, 0.3))
    hand = read().get("paper", 0.5, "hand")
    assert hand.sensitivity is None
    assert hand.predictive_values(0.1) == (None, None)
    with pytest.raises(ValueError, match="prevalence"):
        found.predictive_values(1.0)


def test_what_a_band_achieved(read):
    measured, limits = read(), (0.2, 0.7)
    low, uncertain = (measured.get_band(band, limits, None) for band in ("low", "uncertain"))
    assert (low.group, low.held_out, low.n, low.n_abnormal) == (OVERALL, "held-out films", 80, 2)
    assert low.interval == (0.003, 0.09)
    assert str(low) == "Of 80 held-out studies in this band, 2 were abnormal (0.3 to 9.0 of 100)."
    assert str(uncertain) == "Of 30 held-out studies in this band, 8 were abnormal."
    assert measured.get_band("low", limits, "hand") == low
    assert measured.get_band("low", limits, "wrist").n == 40
    assert measured.get_band("suspected", limits, None).n == 0
    assert measured.get_band("low", (0.2, 0.8), None) is None  # other cut points
    rows = {"low": {"n": 1, "n_abnormal": 2, "intervals": {}}}
    for change in (
        {"weights_sha256": "other"},
        {"bands": {**REPORT["bands"], "groups": {"overall": rows}}},
        {"bands": {"groups": {}}},
    ):
        assert read({**REPORT, **change}).get_band("low", limits, None) is None


def test_invalid_reports_and_those_of_other_weights_are_ignored(read):
    assert read("{").get("paper", 0.5, None) is None
    point = {"threshold": 0.5, "chosen": "x", "groups": {"overall": {"confusion": [1]}}}
    for change in (
        {"weights_sha256": "other"},
        {"operating_points": []},
        {"operating_points": {"paper": point}},
        {"operating_points": {"paper": {**point, "groups": {"overall": {"confusion": [[True, 1], [1, -1]]}}}}},
        {"data": None},
    ):
        assert read({**REPORT, **change}).get("paper", 0.5, None) is None


def test_other_thresholds_and_operating_points_were_not_measured(read):
    assert read().get("paper", 0.4, None) is None
    assert read().get("best", 0.5, None) is None
    assert read(weights=None).get("paper", 0.5, None) is None


def test_bundled_checkpoints():
    predictor = StudyPredictor.from_pretrained("mura-phantom", device="cpu")
    recorded = json.loads((BUNDLED["mura-phantom"] / "evaluation.json").read_text())["operating_points"]
    for name, threshold in predictor.model.config.operating_points.items():
        for part in (None, "wrist"):
            found = predictor.measured_performance.get(name, threshold, part)
            figures = recorded[name]["groups"][part or OVERALL]["figures"]
            assert found.sensitivity == pytest.approx(figures["sensitivity"])
            assert found.specificity == pytest.approx(figures["specificity"])
