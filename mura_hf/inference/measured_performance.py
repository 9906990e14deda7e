"""What a checkpoint's operating points were measured to achieve."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..metrics import predictive_values

OVERALL = "overall"
_GROUPS = ("groups", "regions")


@dataclass(frozen=True)
class OperatingPointPerformance:
    """Studies that had no say in a threshold, and how many of them lie above it.

    Attributes:
        operating_point: Its name.
        threshold: Abnormal lies strictly above it.
        chosen: How it was chosen, in words.
        group: The body part, or `OVERALL`.
        held_out: What the studies were, in words.
        n_abnormal: Studies that were abnormal.
        n_flagged_abnormal: Of these, those flagged.
        n_normal: Studies that were normal.
        n_flagged_normal: Of these, those flagged.
    """

    operating_point: str
    threshold: float
    chosen: str
    group: str
    held_out: str
    n_abnormal: int
    n_flagged_abnormal: int
    n_normal: int
    n_flagged_normal: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the abnormal studies that were flagged; None where there were none."""
        return self.n_flagged_abnormal / self.n_abnormal if self.n_abnormal else None

    @property
    def specificity(self) -> float | None:
        """Share of the normal studies that were not flagged; None where there were none."""
        return 1 - self.n_flagged_normal / self.n_normal if self.n_normal else None

    def predictive_values(self, prevalence: float) -> tuple[float | None, float | None]:
        """Where so many studies are abnormal: the share of flagged studies that are abnormal, and of the others that
        are normal. None where not defined.

        Args:
            prevalence: In (0, 1).

        Raises:
            ValueError: If it lies outside.
        """
        sensitivity, specificity = (
            math.nan if share is None else share for share in (self.sensitivity, self.specificity)
        )
        found = predictive_values(sensitivity, specificity, prevalence)
        positive, negative = (float(value) if math.isfinite(value) else None for value in found)
        return positive, negative


class MeasuredPerformance:
    """Those of one checkpoint, by operating point and body part.

    Args:
        found: Operating point -> body part or `OVERALL` -> what was achieved.
    """

    def __init__(self, found: dict[str, dict[str, OperatingPointPerformance]]) -> None:
        self._found = found

    def get(self, operating_point: str, threshold: float, body_part: str | None) -> OperatingPointPerformance | None:
        """Of a body part where that was measured, else of all studies; None where neither was, or at another
        threshold.
        """
        groups = self._found.get(operating_point, {})
        found = groups.get(body_part or OVERALL) or groups.get(OVERALL)
        return found if found is not None and found.threshold == threshold else None


def read_measured_performance(file: Path, weights: str | None) -> MeasuredPerformance:
    """Reads `evaluation.json`. It comes from strangers: what is missing or not as it should be counts as not measured.

    Args:
        file: The record.
        weights: SHA-256 of the checkpoint's weights; what was measured of others does not count.
    """
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if weights is None or report["weights_sha256"] != weights:
            return MeasuredPerformance({})
        held_out = str(report["data"]["held_out"])
        points = report["operating_points"].items()
        return MeasuredPerformance({str(name): _groups(str(name), point, held_out) for name, point in points})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return MeasuredPerformance({})


def _groups(name: str, point: dict[str, Any], held_out: str) -> dict[str, OperatingPointPerformance]:
    found = {}
    for kind in _GROUPS:
        for group, row in point.get(kind, {}).items():
            (rejected, alarms), (missed, hits) = (tuple(map(_count, counts)) for counts in row["confusion"])
            found[group] = OperatingPointPerformance(
                name, float(point["threshold"]), str(point["chosen"]), str(group), held_out,
                n_abnormal=missed + hits, n_flagged_abnormal=hits, n_normal=rejected + alarms, n_flagged_normal=alarms,
            )  # fmt: skip
    return found


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**9:
        raise ValueError(f"{value!r} is no number of studies")
    return value
