"""Operating points: named thresholds that are chosen on some studies and measured on others."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from .bootstrap import percentile_interval, resample_counts
from .classification import check_predictions, confusion_matrix

OPERATING_POINTS = {
    "paper": "above .5 of the probability, the rule of the MURA paper",
    "youden": "the maximum of sensitivity + specificity on calib",
    "sensitivity_95": "the highest threshold with a sensitivity of at least .95 on calib",
    "specificity_95": "the lowest threshold with a specificity of at least .95 on calib",
}
"""Name of an operating point -> how its threshold is chosen."""

_TARGET = 0.95
_DIGITS = 4
_FIGURES = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value")


def choose_operating_points(
    labels: Sequence[int] | np.ndarray, probabilities: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """Chooses the thresholds in `OPERATING_POINTS`; a study is called abnormal strictly above a threshold.

    A threshold lies halfway between two probabilities that occur, so probabilities that differ slightly from those
    given here are divided in the same way.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal; of `calib`, not of the reported split.
        probabilities: `[n]`, calibrated P(abnormal).

    Returns:
        `paper`: .5 (Rajpurkar et al., arXiv 1712.06957). `youden`: the maximum of sensitivity + specificity - 1
        (Youden, Cancer 3, 1950), the middle one if several thresholds reach it. `sensitivity_95`: the highest
        threshold with a sensitivity of at least .95, or 0 if too many abnormal studies have a probability of 0.
        `specificity_95`: the lowest threshold with a specificity of at least .95.

    Raises:
        ValueError: If lengths differ, a class is missing, or a value is not a probability.
    """
    truth, values = check_predictions(labels, probabilities)
    if set(truth.tolist()) != {0, 1}:
        raise ValueError("operating points need both normal and abnormal studies")
    found = np.unique(values)
    thresholds = np.r_[0.0, (found[1:] + found[:-1]) / 2, 1.0]  # a threshold of 1 calls nothing abnormal
    abnormal, normal = np.sort(values[truth == 1]), np.sort(values[truth == 0])
    sensitivity = np.asarray(1 - np.searchsorted(abnormal, thresholds, side="right") / len(abnormal))
    specificity = np.searchsorted(normal, thresholds, side="right") / len(normal)
    gain = sensitivity + specificity
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    chosen = {
        "youden": best[len(best) // 2],
        "sensitivity_95": np.flatnonzero(np.r_[True, sensitivity[1:] >= _TARGET])[-1],
        "specificity_95": np.flatnonzero(specificity >= _TARGET)[0],
    }
    return {"paper": 0.5, **{name: _shorten(thresholds[index], found) for name, index in chosen.items()}}


def _shorten(threshold: float, values: np.ndarray) -> float:
    """Rounds a threshold, unless that would change how a study is called."""
    short = round(float(threshold), _DIGITS)
    return short if ((values > short) == (values > threshold)).all() else float(threshold)


def measure_operating_points(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    thresholds: Mapping[str, float],
    prevalence: float,
    *,
    n_resamples: int = 2000,
) -> dict[str, dict[str, Any]]:
    """Measures thresholds on studies that were not used to choose them.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal).
        groups: `[n]`, the patient of each study.
        thresholds: Name -> threshold.
        prevalence: Share of abnormal studies that the predictive values assume, in (0, 1).
        n_resamples: Number of resamples of `bootstrap_confidence_intervals`.

    Returns:
        Name -> `threshold`; `confusion` (see `confusion_matrix`); `figures`: `sensitivity`, `specificity`,
        `positive_predictive_value` and `negative_predictive_value` at that prevalence, None if undefined; and their
        95 % `intervals`.

    Raises:
        ValueError: If lengths differ, there are no studies, or the prevalence lies outside (0, 1).
    """
    truth, values = check_predictions(labels, probabilities)
    counts = np.vstack([np.ones(len(truth)), resample_counts(groups, len(truth), n_resamples, seed=0)])
    report = {}
    for name, threshold in thresholds.items():
        correct = (values > threshold) == (truth == 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            sensitivity, specificity = (
                counts @ (correct & (truth == label)) / (counts @ (truth == label)) for label in (1, 0)
            )
        derived = predictive_values(sensitivity, specificity, prevalence)
        samples = dict(zip(_FIGURES, (sensitivity, specificity, *derived), strict=True))
        finite = {figure: sample[1:][np.isfinite(sample[1:])] for figure, sample in samples.items()}
        report[name] = {
            "threshold": threshold,
            "confusion": confusion_matrix(truth, values, threshold),
            "figures": {name: float(one[0]) if np.isfinite(one[0]) else None for name, one in samples.items()},
            "intervals": {name: percentile_interval(sample, 0.95) for name, sample in finite.items() if len(sample)},
        }
    return report


def predictive_values(sensitivity: Any, specificity: Any, prevalence: float) -> tuple[Any, Any]:
    """Computes predictive values at a prevalence in (0, 1) by Bayes' rule (Altman and Bland, BMJ 309, 1994).

    Sensitivity and specificity are numbers or arrays in [0, 1].

    Returns:
        P(abnormal | called abnormal) and P(normal | called normal); nan if nothing is called so.
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence is {prevalence}: it must lie between 0 and 1")
    hits, misses = np.multiply(sensitivity, prevalence), np.multiply(np.subtract(1, sensitivity), prevalence)
    rejections = np.multiply(specificity, 1 - prevalence)
    alarms = np.multiply(np.subtract(1, specificity), 1 - prevalence)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(hits, hits + alarms), np.divide(rejections, rejections + misses)
