"""How far answers move when one thing is added to a picture or taken out of it, and whether that is too far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation import bootstrap_mean
from ..models import LABELS

LIMIT = 0.05
"""Mean absolute change of a study's probability up to which a thing counts as no shortcut."""

CAUGHT, CLEARED, UNDECIDED, EXPECTED = "caught", "cleared", "undecided", "expected"
_WORST = 6  # of a thing, whose pictures are kept


@dataclass(frozen=True)
class Shift:
    """One study's answer with and without a thing.

    Attributes:
        what: The thing.
        study: What the study is called.
        patient: Whom it is of.
        label: 0 normal, 1 abnormal.
        before: Probability without the change.
        after: Probability with it.
        threshold: Above which the study is called abnormal.
        control: Probability after a change of the same size that should not matter; None where there is none.
        pictures: uint8 `[H, W]` without and with the change, of the view with most of it; empty where not kept.
    """

    what: str
    study: str
    patient: str
    label: int
    before: float
    after: float
    threshold: float
    control: float | None = None
    pictures: tuple[np.ndarray, ...] = ()


class Shifts:
    """Changes of answers, by what was changed; pictures are kept of those studies alone that moved furthest.

    Args:
        order: Things in the order of the report; others follow as they come.
    """

    def __init__(self, order: Sequence[str] = ()) -> None:
        self._found: dict[str, list[Shift]] = {what: [] for what in order}
        self._worst: dict[str, list[Shift]] = {}

    def add(self, shift: Shift, pictures: Callable[[], tuple[np.ndarray, ...]] = tuple) -> None:
        """Takes a study in.

        Args:
            shift: Without pictures.
            pictures: Gives them; asked where the study is among those that moved furthest.
        """
        self._found.setdefault(shift.what, []).append(shift)
        worst = self._worst.setdefault(shift.what, [])
        if len(worst) < _WORST or _size(shift) > _size(worst[-1]):
            worst.append(Shift(**{**vars(shift), "pictures": pictures()}))
            worst.sort(key=_size, reverse=True)
            del worst[_WORST:]

    def worst(self) -> dict[str, list[Shift]]:
        """Thing -> the studies whose answers it moved furthest, furthest first, with pictures."""
        return self._worst

    def report(self, expected: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Sums up each thing.

        Args:
            expected: Things that ought to move answers, and so are not judged.

        Returns:
            Thing -> `n` studies; of the change of their probabilities `mean` with its interval `low` and `high`,
            `mean_absolute` with `absolute_low` and `absolute_high`, `median`, `median_absolute`, `p05` and `p95`
            (percentiles); `flips`, the share of studies that it carries over the threshold; `normal` and `abnormal`:
            `n`, `mean`, `low`, `high` of these. Where there is a control, its mean absolute change `control`, and
            `excess`, how much larger that of the thing is, with `excess_low` and `excess_high`. Intervals are 95 %
            ones from a bootstrap over patients. `verdict`, by the mean absolute change or, where there is a control,
            the excess: "caught" where all of its interval lies above `LIMIT`, "cleared" where none does, else
            "undecided"; "expected" where it ought to move answers.
        """
        return {what: _summary(shifts, what in expected) for what, shifts in self._found.items() if shifts}


def _size(shift: Shift) -> float:
    return abs(shift.after - shift.before)


def _summary(shifts: list[Shift], expected: bool) -> dict[str, Any]:
    change = np.array([shift.after - shift.before for shift in shifts])
    patients = [shift.patient for shift in shifts]
    flips = [(one.before > one.threshold) != (one.after > one.threshold) for one in shifts]
    p05, median, p95 = np.quantile(change, [0.05, 0.5, 0.95]).tolist()
    row: dict[str, Any] = {
        "n": len(shifts),
        **_mean(change, patients),
        **_mean(np.abs(change), patients, "absolute_", "mean_absolute"),
        "median": median,
        "median_absolute": float(np.median(np.abs(change))),
        "p05": p05,
        "p95": p95,
        "flips": float(np.mean(flips)),
    }
    for label, word in enumerate(LABELS):
        of_label = [number for number, shift in enumerate(shifts) if shift.label == label]
        if of_label:
            row[word] = {"n": len(of_label), **_mean(change[of_label], [patients[n] for n in of_label])}
    low, high = row["absolute_low"], row["absolute_high"]
    controls = [abs(shift.control - shift.before) for shift in shifts if shift.control is not None]
    if len(controls) == len(shifts):
        row["control"] = float(np.mean(controls))
        row |= _mean(np.abs(change) - controls, patients, "excess_", "excess")
        low, high = row["excess_low"], row["excess_high"]
    judged = CAUGHT if low > LIMIT else CLEARED if high <= LIMIT else UNDECIDED
    return {**row, "verdict": EXPECTED if expected else judged}


def _mean(values: np.ndarray, patients: list[str], prefix: str = "", name: str = "mean") -> dict[str, float]:
    """A mean with its interval."""
    low, high = bootstrap_mean(values, patients)
    return {name: float(values.mean()), f"{prefix}low": low, f"{prefix}high": high}
