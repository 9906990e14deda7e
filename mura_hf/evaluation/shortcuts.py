"""Shortcut audit: do predictions depend on anything that does not show the patient?

`scripts/audit_shortcuts.py` uses it, and adds counterfactual phantoms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..data.views import group_studies
from ..errors import DatasetError
from ..inference import StudyPredictor
from ..metrics import adjust_p_values, mean_interval, mean_with_interval, sign_flip_test
from ..models import LABELS
from ..radiographs import Radiograph, read_radiograph
from .masking import Box, corner_boxes, fill_boxes, marker_boxes, move_boxes
from .splits import body_part_of, image_source

LIMIT = 0.05
"""Largest mean shift of the probability, in either direction, that does not count as a shortcut."""

FOUND, NONE, TOO_FEW, EXPECTED = "shift found", f"none larger than {LIMIT:g}", "too few", "expected"
"""Verdicts on a factor."""

MIN_EXCLUDING = 50
"""Fewer patients of a label exclude no shift: large ones of a few patients may all be missing among them."""

N_STUDIES = 200
"""Largest number of studies of `measure_masking` in an evaluation."""

DETECTORS: dict[str, Callable[[np.ndarray], list[Box]]] = {"corners": corner_boxes, "markers": marker_boxes}
"""Factor of `measure_masking` -> function that finds its boxes in the pixels of a view."""

HIDING_FACTORS = ("cast", "ring")
"""They may hide a finding, so a lower probability is no shortcut."""

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Shift:
    """The prediction for one study with and without a change."""

    factor: str  # what was changed, such as "marker"
    study: str
    patient: str
    label: int  # 0 normal, 1 abnormal
    before: float  # P(abnormal) without the change
    after: float  # P(abnormal) with the change
    threshold: float  # abnormal above it
    control: float | None = None  # P(abnormal) after a change of the same size that should not matter

    @property
    def size(self) -> float:
        """Absolute change of the probability."""
        return abs(self.after - self.before)


class ShiftCollection:
    """Shifts by factor, in the order of `factors`."""

    def __init__(self, factors: Sequence[str] = ()) -> None:
        self.by_factor: dict[str, list[Shift]] = {factor: [] for factor in factors}

    def add(self, shift: Shift) -> None:
        """Adds the shift of a study."""
        self.by_factor.setdefault(shift.factor, []).append(shift)

    def report(self, expected: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Summarises each factor.

        Args:
            expected: Factors that should change predictions and are therefore not judged.

        Returns:
            Factor -> `n` studies; the change of their probabilities: `mean` with `low` and `high`, `mean_absolute`
            with `absolute_low` and `absolute_high`, `median` and `median_absolute`; `flips`, the share of studies that
            cross the threshold; with a control also `control`, its mean absolute change. `normal` and `abnormal` hold
            `n`, the `mean` change with `low` and `high`, and what is judged: `shift`, the mean of the probability with
            the factor minus that with the control (without one, minus that before), with `low`, `high` and `p_value`,
            and `decision`, the same for being called abnormal. Intervals are 95 % intervals over patients.

            `verdict`: "shift found" if the mean shift, or that of the decision, and the mean change itself are larger
            than `LIMIT`, and a sign flip test is significant at 5 % after Holm's correction over all factors and
            labels; this takes at least `MIN_CLUSTERS` patients of a label. Otherwise "none larger than 0.05" if, for
            both labels, the interval of the shift, or that of the change itself, lies within `LIMIT`, so that two
            one-sided tests at 5 % exclude a larger one (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987): 90 %
            intervals, or with a control 95 %, as either may decide. The same must hold for the decision, and there
            must be at least `MIN_EXCLUDING` patients of each label (`within_limit`). Otherwise "too few", or
            "expected". Factors that hide findings are judged on normal studies.
        """
        rows = {factor: _summary(shifts) for factor, shifts in self.by_factor.items() if shifts}
        judged = {factor: _judged_labels(factor) for factor in rows if factor not in expected}
        tests = [
            rows[factor][label][outcome]
            for factor, labels in judged.items()
            for label in labels
            if label in rows[factor]
            for outcome in ("shift", "decision")
        ]
        adjusted = adjust_p_values([test["p_value"] for test in tests])
        for test, p_value in zip(tests, adjusted, strict=True):
            test["adjusted_p_value"] = p_value
        for factor, row in rows.items():
            row["verdict"] = _verdict([row.get(label) for label in judged[factor]]) if factor in judged else EXPECTED
        return rows


def _judged_labels(factor: str) -> tuple[str, ...]:
    return (LABELS[0],) if factor in HIDING_FACTORS else LABELS


def _verdict(labels: list[dict[str, Any] | None]) -> str:
    found = any(
        row[outcome]["adjusted_p_value"] <= _SIGNIFICANT and min(abs(row[outcome]["mean"]), abs(change)) > LIMIT
        for row in labels
        if row is not None and row["low"] is not None  # enough patients for an interval
        for outcome, change in (("shift", row["mean"]), ("decision", row["decision"]["change"]))
    )
    if found:
        return FOUND
    return NONE if all(row is not None and row["within_limit"] for row in labels) else TOO_FEW


def _summary(shifts: list[Shift]) -> dict[str, Any]:
    before, after, threshold = (
        np.array([getattr(shift, name) for shift in shifts]) for name in ("before", "after", "threshold")
    )
    control = np.array([shift.before if shift.control is None else shift.control for shift in shifts])
    labels, patients = (np.array([getattr(shift, name) for shift in shifts]) for name in ("label", "patient"))
    change = after - before
    absolute = mean_with_interval(np.abs(change), patients, least=0)
    row: dict[str, Any] = {
        "n": len(shifts),
        **mean_with_interval(change, patients),
        "mean_absolute": absolute["mean"],
        "absolute_low": absolute["low"],
        "absolute_high": absolute["high"],
        "median": float(np.median(change)),
        "median_absolute": float(np.median(np.abs(change))),
        "flips": float(np.mean((before > threshold) != (after > threshold))),
    }
    controlled = all(shift.control is not None for shift in shifts)
    if controlled:
        row["control"] = float(np.mean(np.abs(control - before)))
    called, called_before, called_control = (values > threshold for values in (after, before, control))
    decided, decided_before = called.astype(float) - called_control, called.astype(float) - called_before
    for label, name in enumerate(LABELS):
        members = labels == label
        if members.any():
            owners, shift = patients[members], (after - control)[members]
            level = 1 - (1 if controlled else 2) * _SIGNIFICANT
            pairs = ((shift, change[members]), (decided[members], decided_before[members]))
            row[name] = {
                "n": int(members.sum()),
                **mean_with_interval(change[members], owners),
                "shift": _test(shift, owners),
                "decision": {
                    **_test(decided[members], owners),
                    "change": float(decided_before[members].mean()),
                },
                "within_limit": len(set(owners)) >= MIN_EXCLUDING
                and all(any(_is_within(mean_interval(one, owners, level)) for one in pair) for pair in pairs),
            }
    return row


def _is_within(interval: tuple[float, float] | None) -> bool:
    return interval is not None and interval[0] >= -LIMIT and interval[1] <= LIMIT


def _test(values: np.ndarray, patients: np.ndarray) -> dict[str, float | None]:
    """Mean of values `[n]` with its interval, and the p-value of a mean of 0."""
    _, index = np.unique(patients, return_inverse=True)
    return {
        **mean_with_interval(values, patients),
        "p_value": float(sign_flip_test(np.bincount(index, values)[:, None])[0]),
    }


def measure_masking(
    predictor: StudyPredictor, rows: Dataset, n_studies: int = N_STUDIES, seed: int = 0
) -> ShiftCollection:
    """Paints over the corners, and the bright compact objects near the border, and compares the predictions.

    Painting over changes predictions by itself, so boxes elsewhere along the border are painted over as a control.

    Args:
        predictor: The checkpoint.
        rows: Rows of any dataset, of patients that the checkpoint has not seen.
        n_studies: Largest number of studies for each factor, drawn at random among those that show it.
        seed: Seed of the draw and of the control's places.

    Returns:
        Shifts of the factors `corners` and `markers`. Studies without a detected marker do not count for `markers`.

    Raises:
        DatasetError: If there are no rows.
    """
    if not len(rows):
        raise DatasetError("there are no images to paint over; choose another split")
    members, rows = group_studies(rows["study_id"]), rows.cast_column("image", Image(decode=False))
    studies = list(members)
    shifts, taken = ShiftCollection(list(DETECTORS)), dict.fromkeys(DETECTORS, 0)
    for number in tqdm(np.random.default_rng(seed).permutation(len(studies)), desc="Masking", leave=False):
        wanted = [factor for factor in DETECTORS if taken[factor] < n_studies]
        if not wanted:
            break
        views = rows.select(members[studies[number]])
        radiographs = [read_radiograph(image_source(image)) for image in views["image"]]
        detected = {factor: [DETECTORS[factor](one.pixels) for one in radiographs] for factor in wanted}
        detected = {factor: boxes for factor, boxes in detected.items() if any(boxes)}
        if not detected:
            continue
        options: dict[str, Any] = {"body_part": body_part_of(views[0]), "heatmaps": False}
        before = predictor(radiographs, **options)
        for factor, boxes in detected.items():
            taken[factor] += 1
            rng = np.random.default_rng([seed, int(number), list(DETECTORS).index(factor)])
            elsewhere = [
                move_boxes(one, image.pixels.shape, rng) for one, image in zip(boxes, radiographs, strict=True)
            ]
            shift = Shift(
                factor=factor,
                study=studies[number],
                patient=views[0]["patient_id"],
                label=views[0]["label"],
                before=before.probability,
                after=predictor(_paint(radiographs, boxes), **options).probability,
                threshold=before.threshold,
                control=predictor(_paint(radiographs, elsewhere), **options).probability,
            )
            shifts.add(shift)
    return shifts


def _paint(radiographs: list[Radiograph], boxes: list[list[Box]]) -> list[Radiograph]:
    return [
        replace(image, pixels=fill_boxes(image.pixels, one)) if one else image
        for image, one in zip(radiographs, boxes, strict=True)
    ]
