import json

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, roc_auc_score

from mura_hf.metrics import (
    PLOTS,
    EvaluationReport,
    classification_metrics,
    measure_operating_points,
    measure_reliability,
    plot_evaluation,
)

RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 2, 200)
PROBABILITIES = np.round(np.clip(0.4 * LABELS + 0.6 * RNG.random(200), 0, 1), 2)
PATIENTS = np.repeat(np.arange(100), 2)
FIRST = np.arange(200) < 80


@pytest.fixture(scope="module")
def report():
    return EvaluationReport.measure(
        LABELS, PROBABILITIES, PATIENTS, groups={"wrist": FIRST, "hand": np.zeros(200, bool)}, n_resamples=200
    )


def test_groups_are_measured_apart_and_empty_ones_left_out(report):
    assert list(report.groups) == ["overall", "wrist"]
    assert report.groups["wrist"].figures == classification_metrics(LABELS[FIRST], PROBABILITIES[FIRST])
    assert np.sum(report.groups["wrist"].confusion) == 80
    assert json.loads(json.dumps(report.to_dict()))["overall"]["figures"]["n"] == 200


def test_curves_have_the_areas_of_the_figures(report):
    roc = report.curves["roc"]
    assert auc(roc["false_positive_rate"], roc["sensitivity"]) == pytest.approx(
        roc_auc_score(LABELS, PROBABILITIES), abs=1e-4
    )
    curve = report.curves["precision_recall"]
    steps = -np.diff(curve["sensitivity"]) @ np.asarray(curve["precision"])[:-1]
    assert steps == pytest.approx(report.groups["overall"].figures["auprc"], abs=0.02)  # corners only
    assert EvaluationReport.measure([0, 0], [0.1, 0.2], [1, 2], n_resamples=20).curves["roc"] is None


def test_reliability_equals_scikit_learns():
    values = np.clip(PROBABILITIES + RNG.uniform(0, 1e-3, 200), 0, 1)  # none on the edge of a bin
    bins = measure_reliability(LABELS, values)
    shares, means = calibration_curve(LABELS, values, n_bins=15)
    np.testing.assert_allclose([row["share"] for row in bins], shares)
    np.testing.assert_allclose([row["mean"] for row in bins], means)
    ece = sum(row["n"] * abs(row["mean"] - row["share"]) for row in bins) / 200
    assert ece == pytest.approx(classification_metrics(LABELS, values)["ece"])


def _record(report):
    effect = {"ece": 0.1, "reliability": measure_reliability(LABELS, PROBABILITIES)}
    points = measure_operating_points(LABELS, PROBABILITIES, PATIENTS, {"paper": 0.5}, 0.1, n_resamples=20)
    return {
        "split": "valid",
        "study": report.to_dict(),
        "curves": report.curves,
        "calibration_effect": {"before": None, "after": effect},
        "operating_points": {name: {"groups": {"overall": row}} for name, row in points.items()},
    }


def test_plots_are_drawn_from_the_record_alone(report, tmp_path):
    record = json.loads(json.dumps(_record(report)))
    first = {path.name: path.read_bytes() for path in plot_evaluation(record, tmp_path)}
    assert list(first) == list(PLOTS)
    assert all(content.startswith(b"\x89PNG") for content in first.values())
    assert {path.name: path.read_bytes() for path in plot_evaluation(record, tmp_path)} == first
    record["study"]["overall"]["figures"]["auroc"] = 0.123
    record["study"]["overall"]["intervals"]["auroc"] = [0.1, 0.2]
    changed = {path.name: path.read_bytes() for path in plot_evaluation(record, tmp_path)}
    assert changed["roc.png"] != first["roc.png"]
    assert changed["reliability.png"] == first["reliability.png"]


def test_curves_that_one_class_does_not_have_are_left_out(report, tmp_path):
    record = {**_record(report), "curves": {"roc": None, "precision_recall": None}}
    assert [path.name for path in plot_evaluation(record, tmp_path)] == ["reliability.png", "body_parts.png"]
