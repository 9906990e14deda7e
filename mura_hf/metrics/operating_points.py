"""Operating points: named thresholds that are chosen on some studies and measured on others."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .classification import Groups, Numbers, check_predictions, confusion_matrix
from .intervals import MIN_STUDIES, rate_interval

OPERATING_POINTS = {
    "paper": "above .5 of the probability, the rule of the MURA paper",
    "youden": "the maximum of sensitivity + specificity on calib",
    "sensitivity_85": "the highest threshold whose sensitivity is, with 90 % confidence, at least .85",
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
"""Confidence of all guarantees: of `sensitivity_85`, `sensitivity_95`, `specificity_95` and the share `BAND_SHARE`."""

SCREENING_POINT = "sensitivity_85"
"""Operating point that prefers sensitivity."""

BAND_SHARE = 0.25
"""Largest share of studies in the band "uncertain"."""

_SENSITIVITIES = {"sensitivity_85": 0.85, "sensitivity_95": 0.95}
_SPECIFICITY = 0.95
_DIGITS = 4


def choose_operating_points(labels: Numbers, probabilities: Numbers, groups: Groups | None = None) -> dict[str, float]:
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
        least 45 abnormal patients; `sensitivity_85`: the same for .85, with at least 15. `specificity_95`: the same
        for normal studies. Points without enough studies are left out.

    Raises:
        ValueError: If lengths differ, a class is missing, a value is not a probability, all values are equal, or
            normal studies have the higher probabilities.
    """
    truth, values = check_predictions(labels, probabilities)
    if set(truth.tolist()) != {0, 1}:
        raise ValueError("operating points need both normal and abnormal studies")
    if groups is not None and len(groups) != len(truth):
        raise ValueError(f"{len(truth)} studies and {len(groups)} groups: they must have the same length")
    found = np.unique(values)
    if len(found) == 1:
        raise ValueError(f"all studies have the probability {found[0]:g}, so no threshold divides them")
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
    for name, target in _SENSITIVITIES.items():
        sensitive = np.flatnonzero(_is_guaranteed(missed, 1 - target, patients[truth == 1]))
        chosen |= {name: sensitive[-1]} if len(sensitive) else {}
    specific = np.flatnonzero(_is_guaranteed(1 - specificity, 1 - _SPECIFICITY, patients[truth == 0]))
    chosen |= {"specificity_95": specific[0]} if len(specific) else {}
    return {"paper": 0.5, **{name: _shorten(thresholds[index], found) for name, index in chosen.items()}}


def choose_default(points: Mapping[str, float]) -> str | None:
    """Returns the operating point that a checkpoint should use by default.

    That is `SCREENING_POINT`; or "paper" if this is at least as sensitive; or None without a `SCREENING_POINT`, or if
    this flags every study (a threshold of 0).
    """
    return min(("paper", SCREENING_POINT), key=points.__getitem__) if points.get(SCREENING_POINT) else None


def choose_bands(probabilities: Numbers, groups: Groups, threshold: float) -> dict[str, float] | None:
    """Chooses the cut points between the bands "low", "uncertain" and "suspected" around a threshold.

    A threshold t on a calibrated probability p says that a missed abnormal study is as bad as (1 - t) / t false
    alarms. Calling a study "low" then costs p (1 - t) on average, and calling it "suspected" (1 - p) t. A study is
    uncertain if both cost more than d (Chow's rule, IEEE Trans. Inf. Theory 16, 1970), so the cut points are d / (1 -
    t) and 1 - d / t. No other rule with as many uncertain studies has outer bands with a lower cost. d is the smallest
    value for which the share of uncertain studies is, with 90 % confidence, at most `BAND_SHARE`.

    Args:
        probabilities: `[n]`, calibrated P(abnormal); of `calib`, not of the reported split.
        groups: `[n]`, the patient of each study.
        threshold: Of the default operating point.

    Returns:
        `low`, up to which a study is low, and `suspected`, strictly above which it is suspected; None if there are too
        few studies for a guarantee, or the threshold is 0 or 1.
    """
    values, patients = np.asarray(probabilities, np.float64), np.asarray(groups)
    if not 0 < threshold < 1 or not len(values):
        return None
    costs = np.minimum(values * (1 - threshold), (1 - values) * threshold)
    found = np.unique(np.r_[0.0, costs, threshold * (1 - threshold)])
    limits = np.r_[(found[1:] + found[:-1]) / 2, found[-1]]
    shares = np.asarray(1 - np.searchsorted(np.sort(costs), limits, side="right") / len(costs))
    allowed = np.flatnonzero(_is_guaranteed(shares, BAND_SHARE, patients))
    if not len(allowed):
        return None
    limit, known = limits[allowed[0]], np.unique(values)
    low, high = _shorten(limit / (1 - threshold), known), _shorten(1 - limit / threshold, known)
    return {"low": max(0.0, min(low, threshold)), "suspected": min(1.0, max(high, threshold))}


def measure_bands(
    labels: Numbers, probabilities: Numbers, groups: Groups, limits: tuple[float, float]
) -> dict[str, dict[str, Any]]:
    """Measures bands on studies that were not used to choose their cut points.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal).
        groups: `[n]`, the patient of each study.
        limits: Cut points: "low" up to the first, "suspected" strictly above the second.

    Returns:
        "low", "uncertain" and "suspected" -> `n` and `n_abnormal`; `figures`: `share` of all studies, and share
        `abnormal` of those in the band, None if there is none; and their 95 % `intervals`, of those that have enough
        studies (`rate_interval`).

    Raises:
        ValueError: If lengths differ, there are no studies, or a value is not a probability.
    """
    truth, values = check_predictions(labels, probabilities)
    place = (values > limits[0]).astype(int) + (values > limits[1])
    report = {}
    for number, name in enumerate(("low", "uncertain", "suspected")):
        inside = place == number
        n, n_abnormal = int(inside.sum()), int(truth[inside].sum())
        found = {
            "share": rate_interval(inside, np.ones(len(truth), bool), groups),
            "abnormal": rate_interval(truth == 1, inside, groups),
        }
        report[name] = {
            "n": n,
            "n_abnormal": n_abnormal,
            "figures": {"share": float(inside.mean()), "abnormal": n_abnormal / n if n else None},
            "intervals": {figure: interval for figure, interval in found.items() if interval is not None},
        }
    return report


def _is_guaranteed(errors: np.ndarray, most: float, patients: np.ndarray) -> np.ndarray:
    """For each share of errors `[k]`: whether a true share above `most` can be excluded with `CONFIDENCE`."""
    from scipy.stats import beta

    _, sizes = np.unique(patients, return_counts=True)
    effective = len(patients) ** 2 / (sizes @ sizes)
    bound = np.ones(len(errors))
    possible = errors < 1
    bound[possible] = beta.ppf(CONFIDENCE, effective * errors[possible] + 1, effective * (1 - errors[possible]))
    return bound <= most


def _shorten(threshold: float, values: np.ndarray) -> float:
    """Rounds a threshold, unless that would change how a study is called."""
    short = round(float(threshold), _DIGITS)
    return short if ((values > short) == (values > threshold)).all() else float(threshold)


def measure_operating_points(
    labels: Numbers, probabilities: Numbers, groups: Groups, thresholds: Mapping[str, float], prevalence: float
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
