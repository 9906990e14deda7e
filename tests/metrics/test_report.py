"""`EvaluationReport` and the plots that are drawn from its record."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from mura_hf import metrics
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
    groups = {"wrist": FIRST, "hand": np.zeros(200, bool)}
    return EvaluationReport.measure(LABELS, PROBABILITIES, PATIENTS, groups=groups)


@pytest.fixture
def record(report):
    effect = {"ece": 0.1, "reliability": measure_reliability(LABELS, PROBABILITIES)}
    points = measure_operating_points(LABELS, PROBABILITIES, PATIENTS, {"paper": 0.5}, 0.1)
    plain = {
        "split": "valid",
        "study": report.to_dict(),
        "curves": report.curves,
        "calibration_effect": {"before": None, "after": effect},
        "operating_points": {name: {"groups": {"overall": row}} for name, row in points.items()},
    }
    return json.loads(json.dumps(plain))


def test_groups_are_measured_apart_and_empty_ones_left_out(report, record):
    assert list(report.groups) == ["overall", "wrist"]
    assert report.groups["wrist"].figures == classification_metrics(LABELS[FIRST], PROBABILITIES[FIRST])
    assert np.sum(report.groups["wrist"].confusion) == 80
    assert record["study"]["overall"]["figures"]["n"] == 200


def test_curves_have_the_areas_of_the_figures(report):
    roc, curve = report.curves["roc"], report.curves["precision_recall"]
    area = auc(roc["false_positive_rate"], roc["sensitivity"])
    assert area == pytest.approx(roc_auc_score(LABELS, PROBABILITIES), abs=1e-4)
    steps = -np.diff(curve["sensitivity"]) @ np.asarray(curve["precision"])[:-1]
    assert steps == pytest.approx(report.groups["overall"].figures["auprc"], abs=0.02)  # corners only


def test_plots_are_drawn_from_the_record_alone(record, tmp_path):
    def draw():
        return {path.name: path.read_bytes() for path in plot_evaluation(record, tmp_path)}

    first = draw()
    assert list(first) == list(PLOTS)
    assert all(content.startswith(b"\x89PNG") for content in first.values())
    assert draw() == first
    record["study"]["overall"]["figures"]["auroc"] = 0.123
    record["study"]["overall"]["intervals"]["auroc"] = [0.1, 0.2]
    changed = draw()
    assert changed["roc.png"] != first["roc.png"]
    assert changed["reliability.png"] == first["reliability.png"]
    record["curves"] = {"roc": None, "precision_recall": None}  # one class only
    assert list(draw()) == ["reliability.png", "body_parts.png"]


def test_metrics_can_be_imported_without_extras():
    for file in Path(metrics.__file__).parent.glob("*.py"):
        imported = [line.split()[1] for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not {name.split(".")[0] for name in imported} & {"scipy", "sklearn", "matplotlib"}, file.name
