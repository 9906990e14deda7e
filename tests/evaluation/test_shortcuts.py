import functools
import json
from types import SimpleNamespace

import audit_shortcuts as audit
import cv2
import numpy as np
import pytest
from datasets import Image
from sklearn.linear_model import LogisticRegression

from mura_hf import DatasetError, Radiograph, load_mura, read_radiograph
from mura_hf.evaluation import describe_shortcuts, measure_masking
from mura_hf.evaluation.shortcuts import FOUND, NONE, TOO_FEW, Shift, ShiftCollection
from mura_hf.metrics import intervals
from mura_hf.models import BODY_PARTS
from mura_hf.phantoms import FINDINGS, write_phantom_mura

SIZE = 192


@pytest.fixture(autouse=True)
def _real_minimum(monkeypatch):
    monkeypatch.setattr(intervals, "MIN_CLUSTERS", 20)


class _Brightness:
    """Predicts the mean brightness: metal and markers increase it, a collimator lowers it."""

    def __call__(self, views, body_part, heatmaps):
        assert body_part in BODY_PARTS  # models by body part need it
        assert not heatmaps
        return SimpleNamespace(threshold=0.5, probability=float(np.mean([np.mean(view) / 255 for view in views])))


def test_shifts_of_counterfactuals_are_those_of_the_images():
    shifts, largest = audit.measure_counterfactuals(_Brightness(), 14, size=64)
    report = shifts.report(audit.EXPECTED_FACTORS)
    assert report["finding"]["n"] == report["marker"]["n"] == report["cast"]["n"] == report["metal"]["n"] == 14
    assert report["ring"]["n"] == 8  # elbows, humeri and shoulders wear none
    assert report["collimation"]["n"] >= 10
    assert report["marker"]["median"] > 0
    assert report["ring"]["median"] > 0
    assert report["cast"]["mean"] > 0 > report["collimation"]["mean"]
    assert report["hardware"]["median"] > report["subtle_fracture"]["median"]
    assert sum(report[kind]["n"] for kind in FINDINGS if kind in report) == 14
    assert report["marker"]["normal"]["n"] == report["marker"]["abnormal"]["n"] == 7
    for factor in ("finding", "cast", "ring"):
        assert "abnormal" not in report[factor]  # casts and rings hide findings
    assert {report[factor]["verdict"] for factor in ("finding", "metal", "hardware")} == {"expected"}
    assert report["marker"]["verdict"] in (NONE, TOO_FEW)
    assert largest.keys() == audit.FACTORS.keys()
    for pairs in largest.values():
        assert all((before != after).any() for _, before, after in pairs)
        sizes = [shift.size for shift, *_ in pairs]
        assert len(sizes) == 4
        assert sizes == sorted(sizes, reverse=True)
    sizes = sorted(shift.size for shift in shifts.by_factor["metal"])
    assert [shift.size for shift, *_ in largest["metal"]] == sizes[:-5:-1]


def test_the_same_seed_gives_the_same_figures():
    first, again, other = (
        audit.measure_counterfactuals(_Brightness(), 2, seed, size=64)[0].report() for seed in (5, 5, 50)
    )
    assert first == again
    assert first["finding"]["mean"] != pytest.approx(other["finding"]["mean"])


class _Fitted:
    """Logistic regression on what stands out in the middle of an image and, with `sees_border`, at its border."""

    def __init__(self, rows, *, sees_border):
        self.features = slice(None if sees_border else 1, None)
        files = [image["path"] for image in rows.cast_column("image", Image(decode=False))["image"]]
        features = np.stack([self._measure(read_radiograph(file).pixels) for file in files])
        self.model = LogisticRegression(C=10.0, max_iter=2000).fit(features, rows["label"])

    def __call__(self, views, body_part, heatmaps):
        images = [view.pixels if isinstance(view, Radiograph) else view / np.float32(255) for view in views]
        probabilities = self.model.predict_proba(np.stack([self._measure(image) for image in images]))[:, 1]
        return SimpleNamespace(threshold=0.5, probability=float(probabilities.mean()))

    def _measure(self, image):
        relief = image - cv2.morphologyEx(image, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
        height, width = image.shape
        inner = (slice(height // 8, -height // 8), slice(width // 6, -width // 6))
        middle, border = relief[inner].max(), relief.copy()
        border[inner] = 0
        return np.array([border.max(), middle, image[inner].mean()])[self.features]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Images whose marker reveals the label."""
    tree = write_phantom_mura(
        tmp_path_factory.mktemp("planted"), 160, seed=9, size=SIZE, valid_fraction=0.4, planted_marker=True,
        body_parts=["elbow", "forearm", "humerus"], progress=False,
    )  # fmt: skip
    return load_mura(tree)


@pytest.fixture(scope="module")
def models(planted):
    """One model that sees the marker, and one that does not."""
    return [_Fitted(planted["train"], sees_border=sees) for sees in (True, False)]


def test_a_planted_marker_is_found(models, monkeypatch):
    monkeypatch.setattr(audit, "render_phantom", functools.cache(audit.render_phantom))  # the same for both
    caught, ignored = (audit.audit_shortcuts(one, counterfactuals=42, size=SIZE)[0] for one in models)
    row = caught["counterfactuals"]["marker"]
    assert row["verdict"] == FOUND
    assert row["mean"] > 0.1  # the marker indicates abnormal
    assert ignored["counterfactuals"]["marker"]["verdict"] in (NONE, TOO_FEW)
    lines = "\n".join(describe_shortcuts(caught))
    assert "Marker alone changes the probability by +0." in lines
    assert ": shift found" in lines
    former = json.loads(json.dumps(caught))
    assert former["twins"] == former.pop("counterfactuals")  # as the first edition wrote it
    assert "\n".join(describe_shortcuts(former)) == lines


def test_painting_a_planted_marker_over_is_found_too(models, planted, tmp_path):
    (caught, largest), (plain, _) = (audit.audit_shortcuts(one, planted["valid"], n_studies=60) for one in models)
    row = caught["masking"]["markers"]
    assert row["verdict"] == FOUND
    assert row["mean"] < -0.05  # without its marker an image looks normal
    assert row["abnormal"]["shift"]["mean"] < -0.05  # minus that of the control
    assert plain["masking"]["markers"]["verdict"] != FOUND
    audit.draw_largest_shifts(largest, tmp_path / "worst.png", side=100)
    sheet = cv2.imread(str(tmp_path / "worst.png"), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape[1] == 4 * 206
    assert sheet.std() > 10
    assert measure_masking(models[0], planted["valid"], 60).report() == caught["masking"]


def test_nothing_to_audit_is_an_error(models, planted, tmp_path):
    with pytest.raises(DatasetError, match="no images to paint over"):
        measure_masking(models[0], planted["valid"].select([]))
    with pytest.raises(DatasetError, match="nothing to draw"):
        audit.draw_largest_shifts({}, tmp_path / "worst.png")


def _shifts(changes, *, controls=None):
    shifts = ShiftCollection()
    for number, change in enumerate(changes):
        control = None if controls is None else 0.48 + controls[number]
        shift = Shift("marker", f"s{number}", f"p{number // 2}", number % 2, 0.48, 0.48 + change, 0.5, control)
        shifts.add(shift)
    return shifts


def test_figures_of_known_shifts():
    changes = [0.1, -0.1, 0.3, 0.01]
    row = _shifts(changes).report()["marker"]
    assert row["n"] == 4
    assert row["mean"] == pytest.approx(np.mean(changes))
    assert row["mean_absolute"] == pytest.approx(np.mean(np.abs(changes)))
    assert row["median_absolute"] == pytest.approx(0.1)
    assert row["flips"] == 0.5  # .58 and .78 are above .5
    assert (row["normal"]["n"], row["normal"]["mean"]) == (2, pytest.approx(0.2))
    assert row["normal"]["shift"]["p_value"] == 0.5  # of two patients, both rise
    assert row["abnormal"]["mean"] == row["abnormal"]["shift"]["mean"] == pytest.approx(-0.045)
    assert row["normal"]["decision"]["mean"] == 1
    assert row["low"] is row["high"] is None  # too few patients
    assert "control" not in row


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ([0.2] * 60, FOUND), ([-0.2] * 60, FOUND), ([0.07, 0.0] * 30, FOUND), ([0.01, 0.01, 0.02, 0.02] * 30, NONE),
        ([0.01, 0.01, 0.02, 0.02] * 24, TOO_FEW),  # 48 patients
        ([0.015, -0.01] * 56 + [0.03, -0.01] * 4, TOO_FEW),  # small, but four of 60 decisions are others
        ([0.015, -0.04, 0.01, -0.03] * 30, NONE), ([0.3] * 4 + [0] * 40, TOO_FEW), ([0.01] * 30, TOO_FEW),
        ([0.03] * 60, FOUND),  # small, but each decision is another
        ([0.2] * 38, TOO_FEW),
        *((changes, TOO_FEW) for changes in ([0.2], [0.0] * 19, [0.3] * 3, [-0.01] * 7)),
    ],
)  # fmt: skip
def test_verdicts(changes, verdict):
    """Patients with two studies, one of each label; both labels are judged."""
    assert _shifts(changes).report()["marker"]["verdict"] == verdict
    assert _shifts(changes).report(["marker"])["marker"]["verdict"] == "expected"


def test_the_shift_is_judged_against_its_control():
    row = _shifts([0.2] * 200, controls=[0.2] * 200).report()["marker"]
    assert (row["control"], row["verdict"]) == (pytest.approx(0.2), NONE)
    assert row["normal"]["shift"]["mean"] == pytest.approx(0)
    # What changes nothing is no shortcut, even if its control changes much.
    assert _shifts([0.01] * 200, controls=[0.2] * 200).report()["marker"]["verdict"] == NONE
    # Consistent shifts are not hidden by a control that moves as far, but up and down.
    noise = np.tile([0.044, 0.044, -0.044, -0.044], 50)
    row = _shifts([0.08] * 200, controls=noise).report()["marker"]
    assert (row["control"], row["verdict"]) == (pytest.approx(0.044), FOUND)


def test_tests_are_corrected_for_their_number():
    row = _shifts([0.5] * 14).report()["marker"]  # seven patients: no p-value of a label is below 2 / 2^7
    assert row["normal"]["shift"]["adjusted_p_value"] == pytest.approx(4 * 2 / 2**7)  # two labels, two outcomes
    assert row["verdict"] == TOO_FEW
