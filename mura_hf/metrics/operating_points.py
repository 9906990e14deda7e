"""Operating points: named thresholds that are chosen on some studies and measured on others."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from .classification import check_predictions, confusion_matrix
from .intervals import MIN_STUDIES, rate_interval

OPERATING_POINTS = {
    "paper": "above .5 of the probability, the rule of the MURA paper",
    "youden": "the maximum of sensitivity + specificity on calib",
    "sensitivity_95": "the highest threshold whose sensitivity is, with 90 % confidence, at least .95",
    "specificity_95": "the lowest threshold whose specificity is, with 90 % confidence, at least .95",
}
"""Name of an operating point -> how its threshold is chosen."""

FORMER_RULES = {
    "sensitivity_95": "the highest threshold with a sensitivity of at least .95 on calib",
    "specificity_95": "the lowest threshold with a specificity of at least .95 on calib",
}
"""How checkpoints without `confidence` in the record of their calibration chose these points."""

CONFIDENCE = 0.9
"""Confidence of the guarantee of `sensitivity_95` and `specificity_95`."""

_TARGET = 0.95
_DIGITS = 4


def choose_operating_points(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray | None = None,
) -> dict[str, float]:
    """Chooses the thresholds in `OPERATING_POINTS`; a study is called abnormal strictly above a threshold.

    A threshold lies halfway between two probabilities that occur, so probabilities that differ slightly from those
    given here are divided in the same way.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal; of `calib`, not of the reported split.
        probabilities: `[n]`, calibrated P(abnormal).
        groups: `[n]`, the patient of each study, whose studies count as one in the guarantee; default: independent.

    Returns:
        `paper`: .5 (Rajpurkar et al., arXiv 1712.06957). `youden`: the maximum of sensitivity + specificity - 1
        (Youden, Cancer 3, 1950), the middle one if several thresholds reach it; with at least `MIN_STUDIES` studies of
        each class. `sensitivity_95`: the highest threshold for which the misses among the abnormal studies exclude a
        sensitivity below .95 with 90 % confidence (tolerance limit: Wilks, Ann. Math. Stat. 12, 1941), which takes at
        least 45 abnormal patients. `specificity_95`: the same for normal studies. Points without enough studies are
        left out.

    Raises:
        ValueError: If lengths differ, a class is missing, a value is not a probability, or normal studies have the
            higher probabilities.
    """
    truth, values = check_predictions(labels, probabilities)
    if set(truth.tolist()) != {0, 1}:
        raise ValueError("operating points need both normal and abnormal studies")
    found = np.unique(values)
    thresholds = np.r_[0.0, (found[1:] + found[:-1]) / 2, 1.0]  # a threshold of 1 calls nothing abnormal
    abnormal, normal = np.sort(values[truth == 1]), np.sort(values[truth == 0])
    missed = np.asarray(np.searchsorted(abnormal, thresholds, side="right") / len(abnormal))
    specificity = np.asarray(np.searchsorted(normal, thresholds, side="right") / len(normal))
    gain = specificity - missed
    if (np.searchsorted(normal, abnormal) + np.searchsorted(normal, abnormal, side="right")).mean() < len(normal):
        raise ValueError(
            "normal studies have the higher probabilities, so no threshold helps: check that label 1 is abnormal"
        )
    chosen = {}
    if min(len(abnormal), len(normal)) >= MIN_STUDIES:
        best = np.flatnonzero(gain >= gain.max() - 1e-12)
        chosen["youden"] = best[len(best) // 2]
    patients = np.arange(len(truth)) if groups is None else np.asarray(groups)
    sensitive = np.flatnonzero(_is_guaranteed(missed, patients[truth == 1]))
    specific = np.flatnonzero(_is_guaranteed(1 - specificity, patients[truth == 0]))
    chosen |= {"sensitivity_95": sensitive[-1]} if len(sensitive) else {}
    chosen |= {"specificity_95": specific[0]} if len(specific) else {}
    return {"paper": 0.5, **{name: _shorten(thresholds[index], found) for name, index in chosen.items()}}


def _is_guaranteed(errors: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """For each share of errors `[k]`: whether a true share above 1 - `_TARGET` can be excluded with `CONFIDENCE`."""
    from scipy.stats import beta

    _, sizes = np.unique(patients, return_counts=True)
    effective = len(patients) ** 2 / (sizes @ sizes)
    bound = np.ones(len(errors))
    possible = errors < 1
    bound[possible] = beta.ppf(CONFIDENCE, effective * errors[possible] + 1, effective * (1 - errors[possible]))
    return bound <= 1 - _TARGET


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
) -> dict[str, dict[str, Any]]:
    """Measures thresholds on studies that were not used to choose them.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal).
        groups: `[n]`, the patient of each study.
        thresholds: Name -> threshold.
        prevalence: Share of abnormal studies that the predictive values assume, in (0, 1).

    Returns:
        Name -> `threshold`; `confusion` (see `confusion_matrix`); `figures`: `sensitivity`, `specificity`,
        `positive_predictive_value` and `negative_predictive_value` at that prevalence, None if undefined; and their
        95 % `intervals`, of those that have enough studies (`rate_interval`). The intervals of predictive values
        follow from those of sensitivity and specificity (`predictive_value_intervals`).

    Raises:
        ValueError: If lengths differ, there are no studies, or the prevalence lies outside (0, 1).
    """
    truth, values = check_predictions(labels, probabilities)
    report = {}
    for name, threshold in thresholds.items():
        confusion = confusion_matrix(truth, values, threshold)
        (rejections, alarms), (misses, hits) = confusion
        with np.errstate(invalid="ignore"):
            sensitivity, specificity = np.divide(hits, hits + misses), np.divide(rejections, rejections + alarms)
        positive, negative = predictive_values(sensitivity, specificity, prevalence)
        figures = {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "positive_predictive_value": positive,
            "negative_predictive_value": negative,
        }
        correct = (values > threshold) == (truth == 1)
        found = {
            figure: rate_interval(correct, truth == label, groups)
            for label, figure in ((1, "sensitivity"), (0, "specificity"))
        }
        intervals = {figure: interval for figure, interval in found.items() if interval is not None}
        if len(intervals) == 2:
            pairs = (sensitivity, *intervals["sensitivity"]), (specificity, *intervals["specificity"])
            intervals.update(predictive_value_intervals(*pairs, prevalence))
        report[name] = {
            "threshold": threshold,
            "confusion": confusion,
            "figures": {figure: float(one) if np.isfinite(one) else None for figure, one in figures.items()},
            "intervals": intervals,
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


def predictive_value_intervals(
    sensitivity: tuple[float, float, float], specificity: tuple[float, float, float], prevalence: float
) -> dict[str, tuple[float, float]]:
    """Computes intervals of the predictive values from those of sensitivity and specificity.

    A predictive value depends on a likelihood ratio, whose interval combines the two by the method of variance
    estimates recovery on the logarithm (Zou and Donner, Stat. Med. 27, 2008).

    Args:
        sensitivity, specificity: Value, low and high.
        prevalence: Share of abnormal studies, in (0, 1).
    """
    value, low, high = specificity
    alarms, misses = (1 - value, 1 - high, 1 - low), (1 - sensitivity[0], 1 - sensitivity[2], 1 - sensitivity[1])
    odds = prevalence / (1 - prevalence)
    positive = [ratio * odds for ratio in _ratio_interval(sensitivity, alarms)]
    negative = [ratio * odds for ratio in _ratio_interval(misses, specificity)]
    return {
        "positive_predictive_value": (_share_of_odds(positive[0]), _share_of_odds(positive[1])),
        "negative_predictive_value": (1 - _share_of_odds(negative[1]), 1 - _share_of_odds(negative[0])),
    }


def _ratio_interval(above: tuple[float, float, float], below: tuple[float, float, float]) -> tuple[float, float]:
    """Interval of a ratio of two proportions, each with value, low and high."""
    with np.errstate(divide="ignore", invalid="ignore"):
        (a, a_low, a_high), (b, b_low, b_high) = np.log(above), np.log(below)
        low, high = a - b - np.hypot(a - a_low, b_high - b), a - b + np.hypot(a_high - a, b - b_low)
        # A proportion of 0 has no logarithm: combine the bounds themselves, which is wider.
        low, high = low if np.isfinite(low) else a_low - b_high, high if np.isfinite(high) else a_high - b_low
        return float(np.exp(low)), float(np.exp(high))


def _share_of_odds(odds: float) -> float:
    return 1.0 if np.isinf(odds) else float(odds / (1 + odds))
