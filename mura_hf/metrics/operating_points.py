"""Operating points: named thresholds, chosen on some studies, and what they achieve on others."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from .bootstrap import percentile_interval, resample_counts
from .classification import check_answers, confusion_matrix, matrix_metrics

PAPER = 0.5
HOW_CHOSEN = {
    "paper": "above .5, as the MURA paper calls it, of the calibrated probability",
    "youden": "most of sensitivity + specificity on calib",
    "sensitivity_95": "the highest with a sensitivity of .95 or more on calib",
    "specificity_95": "the lowest with a specificity of .95 or more on calib",
}
"""Name of an operating point -> how its threshold is chosen."""

_AIM = 0.95
_DIGITS = 4


def choose_operating_points(
    labels: Sequence[int] | np.ndarray, probabilities: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """Thresholds on the probability of studies, abnormal strictly above.

    A threshold lies halfway between two probabilities that occur, so that it parts studies whose probabilities differ
    a little from those here in the same way.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal; of `calib`, not of what is reported.
        probabilities: `[n]`, P(abnormal), calibrated.

    Returns:
        `paper`, .5 (Rajpurkar et al., arXiv 1712.06957); `youden`, the most of sensitivity + specificity - 1 (Youden,
        Cancer 3, 1950), the middle one where several have it; `sensitivity_95`, the highest with a sensitivity of .95
        or more, 0 where too many abnormal studies have a probability of 0; `specificity_95`, the lowest with a
        specificity of .95 or more.

    Raises:
        ValueError: If lengths differ, a class is missing, or a value is no probability.
    """
    truth, values = check_answers(labels, probabilities)
    if set(truth.tolist()) != {0, 1}:
        raise ValueError("operating points need normal studies and abnormal ones")
    found = np.unique(values)
    thresholds = np.r_[0.0, (found[1:] + found[:-1]) / 2, 1.0]  # a threshold of 1 calls nothing abnormal
    abnormal, normal = np.sort(values[truth == 1]), np.sort(values[truth == 0])
    sensitivity = np.asarray(1 - np.searchsorted(abnormal, thresholds, side="right") / len(abnormal))
    specificity = np.searchsorted(normal, thresholds, side="right") / len(normal)
    gain = sensitivity + specificity
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    chosen = {
        "youden": best[len(best) // 2],
        "sensitivity_95": np.flatnonzero(np.r_[True, sensitivity[1:] >= _AIM])[-1],
        "specificity_95": np.flatnonzero(specificity >= _AIM)[0],
    }
    return {"paper": PAPER, **{name: _shorten(thresholds[at], found) for name, at in chosen.items()}}


def measure_operating_points(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    thresholds: Mapping[str, float],
    prevalence: float,
    *,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """What thresholds achieve on studies that had no say in them.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal).
        groups: `[n]`, the patient of each study.
        thresholds: By name.
        prevalence: Share of abnormal studies where the predictive values are asked for, in (0, 1).
        n_resamples: As in `bootstrap_confidence_intervals`.
        level: Likewise.
        seed: Likewise.

    Returns:
        Name -> `threshold`, `confusion` (see `confusion_matrix`), `figures` with `sensitivity`, `specificity`,
        `positive_predictive_value` and `negative_predictive_value` at that prevalence (None where not defined) and
        their `intervals`.

    Raises:
        ValueError: If the lengths differ, there is nothing to resample, or the prevalence lies outside (0, 1).
    """
    truth, values = check_answers(labels, probabilities)
    counts = resample_counts(groups, len(truth), n_resamples, seed)
    report = {}
    for name, threshold in thresholds.items():
        right = (values > threshold) == (truth == 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            sensitive, specific = (counts @ (right & (truth == one)) / (counts @ (truth == one)) for one in (1, 0))
        samples = dict(
            zip(_NAMES, (sensitive, specific, *predictive_values(sensitive, specific, prevalence)), strict=True)
        )
        matrix = confusion_matrix(truth, values, threshold)
        figures = matrix_metrics(matrix)
        known = np.asarray([figures[one] for one in _NAMES[:2]], np.float64)  # None becomes nan
        found = [*known, *predictive_values(known[0], known[1], prevalence)]
        report[name] = {
            "threshold": threshold,
            "confusion": matrix,
            "figures": {
                one: float(value) if np.isfinite(value) else None for one, value in zip(_NAMES, found, strict=True)
            },
            "intervals": {
                one: percentile_interval(sample[np.isfinite(sample)], level)
                for one, sample in samples.items()
                if np.isfinite(sample).any()
            },
        }
    return report


_NAMES = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value")


def predictive_values(sensitivity: Any, specificity: Any, prevalence: float) -> tuple[Any, Any]:
    """Positive and negative predictive value at a prevalence, by Bayes' rule (Altman and Bland, BMJ 309, 1994).

    Args:
        sensitivity: In [0, 1], a number or an array.
        specificity: Likewise.
        prevalence: Share of abnormal studies, in (0, 1).

    Returns:
        P(abnormal truly | called abnormal), P(normal truly | called normal); nan where nothing is called so.

    Raises:
        ValueError: If the prevalence lies outside (0, 1).
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence is {prevalence}: it must lie between 0 and 1")
    hits, misses = np.multiply(sensitivity, prevalence), np.multiply(np.subtract(1, sensitivity), prevalence)
    rejections = np.multiply(specificity, 1 - prevalence)
    alarms = np.multiply(np.subtract(1, specificity), 1 - prevalence)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(hits, hits + alarms), np.divide(rejections, rejections + misses)


def _shorten(threshold: float, values: np.ndarray) -> float:
    """The threshold with few digits, unless that would call a study otherwise."""
    short = round(float(threshold), _DIGITS)
    return short if ((values > short) == (values > threshold)).all() else float(threshold)
