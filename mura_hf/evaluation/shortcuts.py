"""Shortcut audit: do predictions depend on anything that does not show the patient?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..data.views import group_studies
from ..errors import DatasetError
from ..inference import StudyPredictor
from ..metrics import adjust_p_values, mean_interval, mean_with_interval, sign_flip_test
from ..models import BODY_PARTS, LABELS
from ..phantoms import MIX, render_phantom
from ..radiographs import Radiograph, read_radiograph
from .masking import Box, corner_boxes, fill_boxes, marker_boxes, move_boxes
from .prediction_cache import body_part_of, image_source

LIMIT = 0.05
"""Largest mean shift of the probability, in either direction, that does not count as a shortcut."""

FOUND, NONE, TOO_FEW, EXPECTED = "shift found", f"none larger than {LIMIT:g}", "too few", "expected"
"""Verdicts on a factor."""

MIN_EXCLUDING = 50
"""Fewer patients of a label exclude no shift: large ones of a few patients may all be missing among them."""

N_STUDIES = 200
"""Largest number of studies of `measure_masking` in an evaluation."""

FACTORS: dict[str, dict[str, bool]] = {
    "marker": {"marker": True},
    "collimation": {"collimated": True},
    "cast": {"cast": True},
    "ring": {"jewel": True},
    "metal": {"metal": True},
}
"""Factor that is added besides findings -> the option of `render_phantom`."""

EXPECTED_FACTORS = ("finding", *MIX, "metal")
"""Factors that should change predictions; plates and wires are abnormal in MURA's sense."""

_DETECTORS: dict[str, Callable[[np.ndarray], list[Box]]] = {"corners": corner_boxes, "markers": marker_boxes}
_HIDING = ("cast", "ring")  # may hide a finding, so a lower probability would be no shortcut
_PLAIN: dict[str, Any] = {"marker": False, "collimated": False, "cast": False, "jewel": False}
_VIEWS = 3
_N_LARGEST = 6
_SIGNIFICANT = 0.05
_STRIP, _GAP = 20, 6  # pixels: height of a line of text, and distance between a pair


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
    images: tuple[np.ndarray, ...] = ()  # before and after, uint8 `[H, W]`, of the view that changes most

    @property
    def size(self) -> float:
        """Absolute change of the probability."""
        return abs(self.after - self.before)


class ShiftCollection:
    """Shifts by factor, in the order of `factors`. Images are kept for the largest shifts only."""

    def __init__(self, factors: Sequence[str] = ()) -> None:
        self._shifts: dict[str, list[Shift]] = {factor: [] for factor in factors}
        self.largest: dict[str, list[Shift]] = {}  # factor -> shifts with their images, in descending order

    def add(self, shift: Shift, images: Sequence[np.ndarray | Radiograph] = ()) -> None:
        """Adds the shift of a study with the images before and after."""
        self._shifts.setdefault(shift.factor, []).append(shift)
        largest = self.largest.setdefault(shift.factor, [])
        if len(largest) < _N_LARGEST or shift.size > largest[-1].size:
            pixels = tuple(one.to_uint8() if isinstance(one, Radiograph) else one for one in images)
            largest.append(replace(shift, images=pixels))
            largest.sort(key=lambda one: one.size, reverse=True)
            del largest[_N_LARGEST:]

    def report(self, expected: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Summarises each factor.

        Args:
            expected: Factors that should change predictions and are therefore not judged.

        Returns:
            Factor -> `n` studies; the change of their probabilities: `mean` with `low` and `high`, `mean_absolute`
            with `absolute_low` and `absolute_high`, `median`, `median_absolute`, and the percentiles `p05` and `p95`;
            `flips`, the share of studies that cross the threshold. With a control also `control`, its mean absolute
            change, and `excess`, by how much the factor's is larger. `normal` and `abnormal` hold `n`, the `mean`
            change with `low` and `high`, and what is judged: `shift`, the mean of the probability with the factor
            minus that with the control (without one, minus that before), with `low`, `high` and `p_value`, and
            `decision`, the same for being called abnormal. Intervals are 95 % intervals over patients.

            `verdict`: "shift found" if the mean shift, or that of the decision, and the mean change itself are larger
            than `LIMIT`, and a sign flip test is significant at 5 % after Holm's correction over all factors and
            labels; this takes at least `MIN_CLUSTERS` patients of a label. Otherwise "none larger than 0.05" if, for
            both labels, the interval of the shift, or that of the change itself, lies within `LIMIT`, so that two
            one-sided tests at 5 % exclude a larger one (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987): 90 %
            intervals, or with a control 95 %, as either may decide. The same must hold for the decision, and there
            must be at least `MIN_EXCLUDING` patients of each label (`within_limit`). Otherwise "too few", or
            "expected". Factors that hide findings are judged on normal studies.
        """
        rows = {factor: _summary(shifts) for factor, shifts in self._shifts.items() if shifts}
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
    return (LABELS[0],) if factor in _HIDING else LABELS


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
    p05, median, p95 = np.quantile(change, [0.05, 0.5, 0.95]).tolist()
    row: dict[str, Any] = {
        "n": len(shifts),
        **mean_with_interval(change, patients),
        "mean_absolute": absolute["mean"],
        "absolute_low": absolute["low"],
        "absolute_high": absolute["high"],
        "median": median,
        "median_absolute": float(np.median(np.abs(change))),
        "p05": p05,
        "p95": p95,
        "flips": float(np.mean((before > threshold) != (after > threshold))),
    }
    controlled = all(shift.control is not None for shift in shifts)
    if controlled:
        excess = mean_with_interval(np.abs(change) - np.abs(control - before), patients)
        row["control"] = float(np.mean(np.abs(control - before)))
        row |= {"excess": excess["mean"], "excess_low": excess["low"], "excess_high": excess["high"]}
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


def draw_findings(n: int, seed: int) -> list[str]:
    """Draws the kinds of finding of `n` phantom patients with the shares of `MIX`."""
    shares = np.array(list(MIX.values()))
    return np.random.default_rng([seed, 0]).choice(list(MIX), size=n, p=shares / shares.sum()).tolist()


def measure_counterfactuals(
    predictor: StudyPredictor, n: int = 210, seed: int = 1_000_000, *, size: int = 512
) -> ShiftCollection:
    """Renders pairs of studies that differ in one factor only, and compares the predictions.

    Outside the factor the images of a pair are equal bit for bit. Findings, and casts and rings, which hide findings,
    are added to normal patients. Other factors are added to normal and to abnormal patients in turn, because something
    that indicates "normal" changes no prediction that is normal already.

    Args:
        predictor: The checkpoint.
        n: Number of patients with three views each. Body parts take turns; findings have the shares of `MIX`.
        seed: Seed of the first patient. Seeds of a training tree below 2^32 are unlikely to occur again.
        size: Long side in pixels.

    Returns:
        Shifts of `finding` (all kinds), each kind of `MIX`, and each of `FACTORS`. Patients whose images a factor does
        not change (a shoulder wears no ring; a collimator may lie outside the image) do not count for it.
    """
    shifts = ShiftCollection(["finding", *MIX, *FACTORS])
    for number, kind in enumerate(tqdm(draw_findings(n, seed), desc="Counterfactuals", leave=False)):
        part, patient = BODY_PARTS[number % len(BODY_PARTS)], seed + number
        bases = {factor: number // len(BODY_PARTS) % 2 if factor not in _HIDING else 0 for factor in FACTORS}
        variants = [_PLAIN, {**_PLAIN, "finding": kind}]
        variants += [{**variants[bases[factor]], **option} for factor, option in FACTORS.items()]
        studies: list[list[np.ndarray]] = [[] for _ in variants]
        rendered = kind  # may be another kind that suits the body part
        for view in range(_VIEWS):  # view by view, because the variants share cached shadows
            for study, options in zip(studies, variants, strict=True):
                phantom = render_phantom(patient, body_part=part, view=view, size=size, **options)
                study.append(phantom.pixels)
                rendered = phantom.finding or rendered
        predictions = [predictor(study, body_part=part, heatmaps=False) for study in studies]
        pairs = [("finding", 0, 1), (rendered, 0, 1)]
        pairs += [(factor, base, index) for index, (factor, base) in enumerate(bases.items(), 2)]
        for factor, before, after in pairs:
            changed = [int((one != other).sum()) for one, other in zip(studies[before], studies[after], strict=True)]
            if factor in FACTORS and not any(changed):
                continue
            view = int(np.argmax(changed))
            shift = Shift(
                factor=factor,
                study=f"{part} {patient}",
                patient=str(patient),
                label=before,
                before=predictions[before].probability,
                after=predictions[after].probability,
                threshold=predictions[before].threshold,
            )
            shifts.add(shift, (studies[before][view], studies[after][view]))
    return shifts


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
    shifts, taken = ShiftCollection(list(_DETECTORS)), dict.fromkeys(_DETECTORS, 0)
    for number in tqdm(np.random.default_rng(seed).permutation(len(studies)), desc="Masking", leave=False):
        wanted = [factor for factor in _DETECTORS if taken[factor] < n_studies]
        if not wanted:
            break
        views = rows.select(members[studies[number]])
        radiographs = [read_radiograph(image_source(image)) for image in views["image"]]
        detected = {factor: [_DETECTORS[factor](one.pixels) for one in radiographs] for factor in wanted}
        detected = {factor: boxes for factor, boxes in detected.items() if any(boxes)}
        if not detected:
            continue
        options: dict[str, Any] = {"body_part": body_part_of(views[0]), "heatmaps": False}
        before = predictor(radiographs, **options)
        for factor, boxes in detected.items():
            taken[factor] += 1
            rng = np.random.default_rng([seed, int(number), list(_DETECTORS).index(factor)])
            elsewhere = [
                move_boxes(one, image.pixels.shape, rng) for one, image in zip(boxes, radiographs, strict=True)
            ]
            masked = _paint(radiographs, boxes)
            shift = Shift(
                factor=factor,
                study=studies[number],
                patient=views[0]["patient_id"],
                label=views[0]["label"],
                before=before.probability,
                after=predictor(masked, **options).probability,
                threshold=before.threshold,
                control=predictor(_paint(radiographs, elsewhere), **options).probability,
            )
            view = int(np.argmax([sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in one) for one in boxes]))
            shifts.add(shift, (radiographs[view], masked[view]))
    return shifts


def _paint(radiographs: list[Radiograph], boxes: list[list[Box]]) -> list[Radiograph]:
    return [
        replace(image, pixels=fill_boxes(image.pixels, one)) if one else image
        for image, one in zip(radiographs, boxes, strict=True)
    ]


@dataclass(frozen=True)
class ShortcutAudit:
    """Result of `audit_shortcuts`."""

    record: dict[str, Any]  # `limit`, and if measured `counterfactuals` (formerly `twins`) and `masking`, as reported
    largest: dict[str, list[Shift]]  # factor -> largest shifts with images, which show patients: do not share them


def audit_shortcuts(
    predictor: StudyPredictor,
    rows: Dataset | None = None,
    *,
    counterfactuals: int = 0,
    n_studies: int = N_STUDIES,
    size: int = 512,
) -> ShortcutAudit:
    """Measures how far predictions shift with things that are no findings.

    Args:
        predictor: The checkpoint.
        rows: Radiographs whose corners and markers are painted over (`measure_masking`); None skips this.
        counterfactuals: Number of phantom patients to render with and without a marker, a collimator, a cast, a ring,
            metal and a finding (`measure_counterfactuals`); 0 skips this.
        n_studies: Largest number of studies of `rows`.
        size: Long side of the phantoms in pixels.

    Raises:
        ValueError: If both parts are skipped.
    """
    if rows is None and not counterfactuals:
        raise ValueError("nothing to audit with; give radiographs, or a number of counterfactuals, or both")
    record: dict[str, Any] = {"limit": LIMIT}
    largest: dict[str, list[Shift]] = {}
    if counterfactuals:
        added = measure_counterfactuals(predictor, counterfactuals, size=size)
        record["counterfactuals"] = record["twins"] = added.report(EXPECTED_FACTORS)
        largest |= {factor: shifts for factor, shifts in added.largest.items() if factor in FACTORS}
    if rows is not None:
        masked = measure_masking(predictor, rows, n_studies)
        record["masking"] = masked.report()
        largest |= {f"{factor} painted over": shifts for factor, shifts in masked.largest.items()}
    return ShortcutAudit(record, largest)


def draw_largest_shifts(
    largest: dict[str, list[Shift]], path: str | Path, *, side: int = 220, columns: int = 4
) -> None:
    """Draws the image pairs with the largest shifts, each with its probabilities, on one sheet.

    Args:
        largest: From a `ShortcutAudit`.
        path: The PNG file to write.
        side: Side of an image in pixels.
        columns: Largest number of pairs in a row.

    Raises:
        DatasetError: If there is nothing to draw, or the file cannot be written.
    """
    if not any(largest.values()):
        raise DatasetError("no shift was measured, so there is nothing to draw; give more studies")
    lines = []
    for factor, shifts in largest.items():
        cells = [_draw_pair(shift, side) for shift in shifts[:columns]]
        cells += [np.zeros_like(cells[0])] * (columns - len(cells))
        title = np.zeros((_STRIP, columns * cells[0].shape[1]), np.uint8)
        _write(title, f"{factor}: without it (left) and with it (right)")
        lines += [title, np.hstack(cells)]
    if not cv2.imwrite(str(path), np.vstack(lines)):
        raise DatasetError(f"{path} cannot be written; check that its folder exists and is writable")


def _draw_pair(shift: Shift, side: int) -> np.ndarray:
    cell = np.zeros((side + 2 * _STRIP, 2 * side + _GAP), np.uint8)
    for number, (image, probability) in enumerate(zip(shift.images, (shift.before, shift.after), strict=True)):
        scale = side / max(image.shape)
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:side, :side]
        left = number * side
        cell[: small.shape[0], left : left + small.shape[1]] = small
        _write(cell[side : side + _STRIP, left : left + side], f"{probability:.3f}")
    _write(cell[side + _STRIP :], f"{shift.study[-36:]} {LABELS[shift.label]}")
    return cell


def _write(strip: np.ndarray, text: str) -> None:
    """Writes text into a strip of an image, in place."""
    origin = (3, strip.shape[0] - 6)
    strip[:] = cv2.putText(strip.copy(), text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 235, 1, cv2.LINE_AA)
