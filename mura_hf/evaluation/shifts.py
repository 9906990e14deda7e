"""How far predictions shift when one thing in an image is changed, and whether the shift is too large."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..metrics import bootstrap_mean
from ..models import LABELS

LIMIT = 0.05
"""Largest mean absolute change of a study's probability at which something does not count as a shortcut."""

CAUGHT, CLEARED, UNDECIDED, EXPECTED = "caught", "cleared", "undecided", "expected"
_N_LARGEST = 6


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
    """Shifts by factor. Images are kept for the largest shifts only.

    Args:
        factors: Factors in the order of the report; others follow in the order in which they are added.
    """

    def __init__(self, factors: Sequence[str] = ()) -> None:
        self._shifts: dict[str, list[Shift]] = {factor: [] for factor in factors}
        self._largest: dict[str, list[Shift]] = {}

    def add(self, shift: Shift, images: Callable[[], tuple[np.ndarray, ...]] = tuple) -> None:
        """Adds the shift of a study; `images` is called only if the shift is among the largest."""
        self._shifts.setdefault(shift.factor, []).append(shift)
        largest = self._largest.setdefault(shift.factor, [])
        if len(largest) < _N_LARGEST or shift.size > largest[-1].size:
            largest.append(replace(shift, images=images()))
            largest.sort(key=lambda one: one.size, reverse=True)
            del largest[_N_LARGEST:]

    def largest(self) -> dict[str, list[Shift]]:
        """Returns the largest shifts of each factor with their images, in descending order."""
        return self._largest

    def report(self, expected: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Summarises each factor.

        Args:
            expected: Factors that should change predictions and are therefore not judged.

        Returns:
            Factor -> `n` studies; the change of their probabilities: `mean` with `low` and `high`, `mean_absolute`
            with `absolute_low` and `absolute_high`, `median`, `median_absolute`, and the percentiles `p05` and `p95`;
            `flips`, the share of studies that cross the threshold; `normal` and `abnormal` with `n`, `mean`, `low` and
            `high`. With a control also `control`, its mean absolute change, and `excess` with `excess_low` and
            `excess_high`, by how much the factor's is larger. Intervals are 95 % intervals from a bootstrap over
            patients. `verdict` judges the mean absolute change, or the excess if there is a control: "caught" if the
            whole interval lies above `LIMIT`, "cleared" if none of it does, else "undecided"; or "expected".
        """
        return {factor: _summary(shifts, factor in expected) for factor, shifts in self._shifts.items() if shifts}


def _summary(shifts: list[Shift], expected: bool) -> dict[str, Any]:
    change = np.array([shift.after - shift.before for shift in shifts])
    patients = [shift.patient for shift in shifts]
    p05, median, p95 = np.quantile(change, [0.05, 0.5, 0.95]).tolist()
    row: dict[str, Any] = {
        "n": len(shifts),
        **_mean(change, patients),
        **_mean(np.abs(change), patients, "absolute_", "mean_absolute"),
        "median": median,
        "median_absolute": float(np.median(np.abs(change))),
        "p05": p05,
        "p95": p95,
        "flips": float(np.mean([(one.before > one.threshold) != (one.after > one.threshold) for one in shifts])),
    }
    for label, name in enumerate(LABELS):
        members = [number for number, shift in enumerate(shifts) if shift.label == label]
        if members:
            row[name] = {"n": len(members), **_mean(change[members], [patients[n] for n in members])}
    low, high = row["absolute_low"], row["absolute_high"]
    controls = [abs(shift.control - shift.before) for shift in shifts if shift.control is not None]
    if len(controls) == len(shifts):
        row["control"] = float(np.mean(controls))
        row |= _mean(np.abs(change) - controls, patients, "excess_", "excess")
        low, high = row["excess_low"], row["excess_high"]
    verdict = CAUGHT if low > LIMIT else CLEARED if high <= LIMIT else UNDECIDED
    return {**row, "verdict": EXPECTED if expected else verdict}


def _mean(values: np.ndarray, patients: list[str], prefix: str = "", name: str = "mean") -> dict[str, float]:
    low, high = bootstrap_mean(values, patients)
    return {name: float(values.mean()), f"{prefix}low": low, f"{prefix}high": high}
