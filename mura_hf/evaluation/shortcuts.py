"""Shortcut audit: do predictions depend on anything that does not show the patient?"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..errors import DatasetError
from ..inference import StudyPredictor
from ..models import BODY_PARTS, LABELS
from ..phantoms import MIX, render_phantom
from .masking import N_STUDIES, measure_masking
from .shifts import LIMIT, Shift, ShiftCollection

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

_HIDING = ("cast", "ring")  # may hide a finding, so a lower probability would be no shortcut
_PLAIN: dict[str, Any] = {"marker": False, "collimated": False, "cast": False, "jewel": False}
_VIEWS = 3
_STRIP, _GAP = 20, 6  # pixels: height of a line of text, and distance between a pair


def measure_counterfactuals(
    predictor: StudyPredictor, n: int = 210, seed: int = 1_000_000, *, size: int = 512, progress: bool = True
) -> ShiftCollection:
    """Renders pairs of studies that differ in one factor only, and compares the predictions.

    Outside the factor the images of a pair are equal bit for bit. Findings are added to normal patients. Other factors
    are added to normal and to abnormal patients in turn, because something that indicates "normal" changes no
    prediction that is normal already. Casts and rings are only added to normal patients, since they hide findings.

    Args:
        predictor: The checkpoint.
        n: Number of patients with three views each. Body parts take turns; findings have the shares of `MIX`.
        seed: Seed of the first patient. Seeds of a training tree below 2^32 are unlikely to occur again.
        size: Long side in pixels.
        progress: Whether to show a progress bar.

    Returns:
        Shifts of `finding` (all kinds), each kind of `MIX`, and each of `FACTORS`. Patients whose images a factor does
        not change (a shoulder wears no ring; a collimator may lie outside the image) do not count for it.
    """
    rng = np.random.default_rng([seed, 0])
    kinds = rng.choice(list(MIX), size=n, p=np.array(list(MIX.values())) / sum(MIX.values()))
    shifts = ShiftCollection(["finding", *MIX, *FACTORS])
    for number in tqdm(range(n), desc="Counterfactuals", disable=not progress):
        part, patient, kind = BODY_PARTS[number % len(BODY_PARTS)], seed + number, str(kinds[number])
        abnormal = {**_PLAIN, "finding": kind}
        bases = {factor: number // len(BODY_PARTS) % 2 if factor not in _HIDING else 0 for factor in FACTORS}
        variants = [_PLAIN, abnormal]
        variants += [{**variants[bases[factor]], **option} for factor, option in FACTORS.items()]
        studies: list[list[np.ndarray]] = [[] for _ in variants]
        for view in range(_VIEWS):  # view by view, because the variants share cached shadows
            for study, options in zip(studies, variants, strict=True):
                phantom = render_phantom(patient, body_part=part, view=view, size=size, **options)
                study.append(phantom.pixels)
                kind = phantom.finding or kind
        predictions = [predictor(study, body_part=part, heatmaps=False) for study in studies]
        pairs = [("finding", 0, 1), (kind, 0, 1)]
        pairs += [(factor, base, index) for index, (factor, base) in enumerate(bases.items(), 2)]
        for factor, before, after in pairs:
            changed = [int((one != other).sum()) for one, other in zip(studies[before], studies[after], strict=True)]
            if factor in FACTORS and not any(changed):
                continue
            view = int(np.argmax(changed))
            images = (studies[before][view], studies[after][view])
            shift = Shift(
                factor=factor,
                study=f"{part} {patient}",
                patient=str(patient),
                label=before,
                before=predictions[before].probability,
                after=predictions[after].probability,
                threshold=predictions[before].threshold,
            )
            shifts.add(shift, partial(tuple, images))
    return shifts


@dataclass(frozen=True)
class ShortcutAudit:
    """Result of `audit_shortcuts`.

    `record` has plain values: `limit`, and if measured `counterfactuals` (also as `twins`, its former name) and
    `masking`, from `ShiftCollection.report`. `largest` maps each factor to the largest shifts with images. These show
    patients, so do not share them.
    """

    record: dict[str, Any]
    largest: dict[str, list[Shift]]


def audit_shortcuts(
    predictor: StudyPredictor,
    rows: Dataset | None = None,
    *,
    counterfactuals: int = 0,
    n_studies: int = N_STUDIES,
    size: int = 512,
    progress: bool = True,
) -> ShortcutAudit:
    """Measures how far predictions shift with things that are no findings.

    Args:
        predictor: The checkpoint.
        rows: Radiographs whose corners and markers are painted over (`measure_masking`); None skips this.
        counterfactuals: Number of phantom patients to render with and without a marker, a collimator, a cast, a ring,
            metal and a finding (`measure_counterfactuals`); 0 skips this.
        n_studies: Largest number of studies of `rows`.
        size: Long side of the phantoms in pixels.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If both parts are skipped.
    """
    if rows is None and not counterfactuals:
        raise ValueError("nothing to audit with; give radiographs, or a number of counterfactuals, or both")
    record: dict[str, Any] = {"limit": LIMIT}
    largest: dict[str, list[Shift]] = {}
    if counterfactuals:
        added = measure_counterfactuals(predictor, counterfactuals, size=size, progress=progress)
        record["counterfactuals"] = record["twins"] = added.report(EXPECTED_FACTORS)
        kept = set(FACTORS)
        largest |= {factor: shifts for factor, shifts in added.largest().items() if factor in kept}
    if rows is not None:
        masked = measure_masking(predictor, rows, n_studies, progress=progress)
        record["masking"] = masked.report()
        largest |= {f"{factor} painted over": shifts for factor, shifts in masked.largest().items()}
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
        lines += [_write(title, f"{factor}: without it (left) and with it (right)"), np.hstack(cells)]
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


def _write(strip: np.ndarray, text: str) -> np.ndarray:
    """Writes text into a strip of an image, in place, and returns the strip."""
    origin = (3, strip.shape[0] - 6)
    strip[:] = cv2.putText(strip.copy(), text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 235, 1, cv2.LINE_AA)
    return strip
