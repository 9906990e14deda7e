"""Measured performance of a checkpoint's operating points and bands, read from its `evaluation.json`."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..metrics import predictive_values

OVERALL = "overall"
"""Group of all studies."""


@dataclass(frozen=True)
class OperatingPointPerformance:
    """Counts of held-out studies at one operating point. They were not used to choose its threshold."""

    operating_point: str  # its name
    threshold: float  # studies strictly above it are flagged
    group: str  # the body part, or `OVERALL`
    held_out: str  # description of the studies
    n_abnormal: int  # number of abnormal studies
    n_flagged_abnormal: int  # number of abnormal studies that were flagged
    n_normal: int  # number of normal studies
    n_flagged_normal: int  # number of normal studies that were flagged

    @property
    def sensitivity(self) -> float | None:
        """Share of abnormal studies that were flagged; None if there are none."""
        return self.n_flagged_abnormal / self.n_abnormal if self.n_abnormal else None

    @property
    def specificity(self) -> float | None:
        """Share of normal studies that were not flagged; None if there are none."""
        return 1 - self.n_flagged_normal / self.n_normal if self.n_normal else None

    def predictive_values(self, prevalence: float) -> tuple[float | None, float | None]:
        """Returns the positive and the negative predictive value; None if not defined.

        Args:
            prevalence: Share of abnormal studies, in (0, 1).

        Raises:
            ValueError: If the prevalence is out of range.
        """
        rates = (self.sensitivity, self.specificity)
        sensitivity, specificity = (math.nan if rate is None else rate for rate in rates)
        positive, negative = map(float, predictive_values(sensitivity, specificity, prevalence))
        return positive if math.isfinite(positive) else None, negative if math.isfinite(negative) else None


@dataclass(frozen=True)
class BandPerformance:
    """Counts of held-out studies in one band. They were not used to choose its cut points."""

    band: str  # "low", "uncertain" or "suspected"
    group: str  # the body part, or `OVERALL`
    held_out: str  # description of the studies
    n: int  # number of studies in the band
    n_abnormal: int  # number of abnormal ones among them
    # 95 % interval of the share of abnormal studies in the band; None if there are too few
    interval: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as JSON values."""
        return {**vars(self), "interval": None if self.interval is None else list(self.interval)}

    def __str__(self) -> str:
        text = f"Of {self.n} held-out studies in this band, {self.n_abnormal} were abnormal"
        if self.interval is None:
            return f"{text}."
        low, high = (100 * one for one in self.interval)
        return f"{text} ({low:.1f} to {high:.1f} of 100)."


@dataclass(frozen=True)
class MeasuredPerformance:
    """Performance of one checkpoint by operating point or band, and by body part or `OVERALL`."""

    points: dict[str, dict[str, OperatingPointPerformance]] = field(default_factory=dict)
    bands: dict[str, dict[str, BandPerformance]] = field(default_factory=dict)
    band_limits: tuple[float, float] | None = None  # cut points that the bands were measured with
    # Area under the ROC curve on held-out studies, and its 95 % interval if there is one
    auroc: tuple[float, tuple[float, float] | None] | None = None
    data: tuple[str, str] | None = None  # name of the data that it was measured on, and their licence

    def get(self, operating_point: str, threshold: float, body_part: str | None) -> OperatingPointPerformance | None:
        """Returns the performance on a body part if it was measured, else on all studies.

        Returns None if neither was measured, or only at another threshold.
        """
        groups = self.points.get(operating_point, {})
        found = groups.get(body_part or OVERALL) or groups.get(OVERALL)
        return found if found is not None and found.threshold == threshold else None

    def get_band(self, band: str, limits: tuple[float, float], body_part: str | None) -> BandPerformance | None:
        """Returns what a band achieved on a body part if that was measured, else on all studies.

        Returns None if neither was measured, or only with other cut points.
        """
        groups = self.bands.get(band, {}) if limits == self.band_limits else {}
        return groups.get(body_part or OVERALL) or groups.get(OVERALL)


def read_measured_performance(file: Path, weights: str | None) -> MeasuredPerformance:
    """Reads `evaluation.json`. The file is untrusted: missing or invalid entries count as not measured.

    Figures of other weights than those with the SHA-256 `weights` are ignored.
    """
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if weights is None or report["weights_sha256"] != weights:
            return MeasuredPerformance()
        held_out = str(report["data"]["held_out"])
        points = report["operating_points"].items()
        found = {str(name): _read_groups(str(name), point, held_out) for name, point in points}
        bands, limits = _read_bands(report["bands"], held_out) if "bands" in report else ({}, None)
        auroc, data = _read_summary(report)
        return MeasuredPerformance(found, bands, limits, auroc, data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return MeasuredPerformance()


def _read_summary(report: dict[str, Any]) -> tuple[Any, tuple[str, str] | None]:
    """The arguments `auroc` and `data` of `MeasuredPerformance`."""
    data, overall = report["data"], report.get("study", {}).get("overall", {})
    known = (str(data["name"]), str(data["license"])) if data.get("name") and data.get("license") else None
    if (auroc := overall.get("figures", {}).get("auroc")) is None:
        return None, known
    interval = overall["intervals"].get("auroc")
    return (float(auroc), interval and (float(interval[0]), float(interval[1]))), known


def _read_groups(name: str, point: dict[str, Any], held_out: str) -> dict[str, OperatingPointPerformance]:
    found = {}
    for kind in ("groups", "regions"):
        for group, row in point.get(kind, {}).items():
            (true_negatives, false_positives), (false_negatives, true_positives) = row["confusion"]
            _check_counts(true_negatives, false_positives, false_negatives, true_positives)
            found[group] = OperatingPointPerformance(
                name,
                float(point["threshold"]),
                str(group),
                held_out,
                n_abnormal=false_negatives + true_positives,
                n_flagged_abnormal=true_positives,
                n_normal=true_negatives + false_positives,
                n_flagged_normal=false_positives,
            )
    return found


def _read_bands(
    record: dict[str, Any], held_out: str
) -> tuple[dict[str, dict[str, BandPerformance]], tuple[float, float]]:
    """Band -> group -> performance, and the cut points."""
    found: dict[str, dict[str, BandPerformance]] = {}
    for group, rows in record["groups"].items():
        for name, row in rows.items():
            n, n_abnormal, pair = row["n"], row["n_abnormal"], row["intervals"].get("abnormal")
            _check_counts(n, n_abnormal, n - n_abnormal)
            interval = None if pair is None else (float(pair[0]), float(pair[1]))
            performance = BandPerformance(str(name), str(group), held_out, n, n_abnormal, interval)
            found.setdefault(str(name), {})[str(group)] = performance
    return found, (float(record["limits"]["low"]), float(record["limits"]["suspected"]))


def _check_counts(*counts: Any) -> None:
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 10**9:
            raise ValueError(f"{count!r} is not a number of studies")
