"""Calibration: one temperature for views, a slope and an intercept for studies, and how well probabilities fit."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .classification import N_BINS, Groups, Numbers, cluster_index
from .intervals import MIN_CLUSTERS, MIN_STUDIES, effective_degrees, t_quantile

_EPSILON = 1e-7  # keeps logits of probabilities finite


def fit_temperature(margins: Numbers, labels: Numbers) -> float:
    """Fits the temperature of the views' logits.

    Source: Guo et al., "On calibration of modern neural networks", arXiv 1706.04599, section 4.2, with the bias
    correction of Firth (see `fit_study_calibration`).

    Args:
        margins: `[n]`, z_abnormal - z_normal of views.
        labels: `[n]`, 0 normal and 1 abnormal.

    Returns:
        The temperature to divide margins by, between .05 and 20.

    Raises:
        ValueError: If lengths differ, a class is missing, or normal views have the higher margins.
    """
    values, truth = _check(margins, labels)
    slope = _fit(values[:, None], truth)[0]
    return float(np.clip(1 / _positive(slope), 0.05, 20.0))


def fit_study_calibration(probabilities: Numbers, labels: Numbers) -> tuple[float, float]:
    """Fits slope and intercept on the logit of the studies' probabilities.

    Logistic calibration (Cox, Biometrika 45, 1958) with the penalty of Firth (Biometrika 80, 1993), which removes the
    bias of few studies and stays finite if they are ranked perfectly. The intercept is then fitted again, so that the
    mean probability equals the share of abnormal studies (Puhr et al., Stat. Med. 36, 2017).

    Args:
        probabilities: `[n]`, P(abnormal) of studies, in [0, 1].
        labels: `[n]`, 0 normal and 1 abnormal.

    Returns:
        Slope, between .05 and 20, and intercept, between -20 and 20.

    Raises:
        ValueError: If lengths differ, a class is missing, a value is not a probability, or normal studies have the
            higher probabilities.
    """
    margins, truth = _check(_logit(probabilities), labels)
    slope = float(np.clip(_positive(_fit(np.stack([margins, np.ones(len(margins))], 1), truth)[0]), 0.05, 20.0))
    return slope, float(np.clip(_match_mean(slope * margins, truth), -20, 20))


def calibrate_studies(probabilities: Numbers, slope: float = 1.0, intercept: float = 0.0) -> np.ndarray:
    """Returns sigmoid(slope * logit(p) + intercept), float64 `[n]`; slope 1 and intercept 0 return p unchanged."""
    values = np.asarray(probabilities, np.float64)
    if slope == 1 and intercept == 0:
        return values
    from scipy.special import expit, logit

    with np.errstate(divide="ignore"):
        return expit(slope * logit(values) + intercept)


def measure_calibration(
    labels: Numbers, probabilities: Numbers, groups: Groups, level: float = 0.95
) -> dict[str, Any]:
    """Measures how well probabilities fit (Van Calster et al., "Calibration: the Achilles heel of predictive
    analytics", BMC Medicine 17, 2019).

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal).
        groups: `[n]`, the patient of each row.
        level: Coverage of the intervals.

    Returns:
        `slope` (1 is ideal; below 1 the probabilities are too extreme), `intercept` (calibration in the large: 0 is
        ideal; above 0 they are too low) and `observed_expected` (abnormal studies over the sum of probabilities), each
        with `value`, `low` and `high` from the variance between patients; and `debiased_error` (root of the
        squared calibration error in 15 bins with the same number of studies, without the part that chance adds: Kumar
        et al., NeurIPS 2019). `slope` is None if the classes are ranked perfectly, or perfectly the wrong way, which
        no slope fits best, and `observed_expected` if all probabilities are 0. All are None if there are fewer than
        `MIN_STUDIES` studies of a class or `MIN_CLUSTERS` patients.
    """
    margins, truth = _logit(probabilities), np.asarray(labels, np.float64)
    index, n_clusters = cluster_index(groups)
    if min(truth.sum(), (1 - truth).sum()) < MIN_STUDIES or n_clusters < MIN_CLUSTERS:
        return {"slope": None, "intercept": None, "observed_expected": None, "debiased_error": None}
    values = np.asarray(probabilities, np.float64)
    sizes = [np.bincount(index, kind, n_clusters) for kind in (truth, 1 - truth)]
    t = t_quantile(level, effective_degrees(sizes))

    def interval(value: float, error: float, scale: Callable[[float], float] = float) -> dict[str, float]:
        return {"value": scale(value), "low": scale(value - t * error), "high": scale(value + t * error)}

    design = np.stack([margins, np.ones(len(margins))], 1)
    slope = None
    abnormal, normal = margins[truth == 1], margins[truth == 0]
    if abnormal.min() < normal.max() and normal.min() < abnormal.max():
        coefficients = _fit(design, truth, firth=False)
        slope = interval(coefficients[0], _robust_errors(design, truth, design @ coefficients, index, n_clusters)[0])
    shift = _match_mean(margins, truth)
    observed_expected = None
    if values.sum() > 0:
        ratio = float(np.log(truth.sum() / values.sum()))
        over = np.bincount(index, truth - np.exp(ratio) * values, n_clusters)
        error = float(np.sqrt(n_clusters / (n_clusters - 1) * (over @ over)) / truth.sum())
        observed_expected = interval(ratio, error, lambda log_ratio: float(np.exp(log_ratio)))
    return {
        "slope": slope,
        "intercept": interval(shift, _robust_errors(design[:, 1:], truth, margins + shift, index, n_clusters)[0]),
        "observed_expected": observed_expected,
        "debiased_error": _debiased_error(truth, values),
    }


def _debiased_error(truth: np.ndarray, values: np.ndarray) -> float:
    total, order, n_bins = 0.0, np.argsort(values), min(N_BINS, len(values) // 2)
    ranked = values[order]
    bins = (np.arange(len(values)) * n_bins // len(values))[np.searchsorted(ranked, ranked)]  # equal values together
    for number in np.unique(bins):
        members = order[bins == number]
        share = truth[members].mean()
        chance = share * (1 - share) / max(len(members) - 1, 1)
        total += len(members) / len(values) * ((values[members].mean() - share) ** 2 - chance)
    return float(np.sqrt(max(total, 0.0)))


def _check(values: Numbers, labels: Numbers) -> tuple[np.ndarray, np.ndarray]:
    numbers, truth = np.asarray(values, np.float64), np.asarray(labels, np.float64)
    if numbers.shape != truth.shape or numbers.ndim != 1:
        raise ValueError(f"{numbers.shape} values and {truth.shape} labels; need one label a value")
    if set(truth.tolist()) != {0.0, 1.0} or not np.isfinite(numbers).all():
        raise ValueError("calibration needs finite values and both normal and abnormal studies")
    return numbers, truth


def _logit(probabilities: Numbers) -> np.ndarray:
    from scipy.special import logit

    values = np.asarray(probabilities, np.float64)
    if len(values) and not (values.min() >= 0 and values.max() <= 1):  # NaN too
        raise ValueError(f"probabilities must lie in [0, 1], but range from {values.min():g} to {values.max():g}")
    return logit(np.clip(values, _EPSILON, 1 - _EPSILON))


def _positive(slope: float) -> float:
    if slope <= 0:
        raise ValueError(
            "normal studies have the higher probabilities, so no calibration helps: check that label 1 is abnormal, "
            "and that the model was trained"
        )
    return slope


def _fit(design: np.ndarray, truth: np.ndarray, *, firth: bool = True) -> np.ndarray:
    """Coefficients `[k]` of a logistic regression on `[n, k]`, by Newton's method with halved steps."""
    from scipy.special import expit

    def score(coefficients: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        margins = design @ coefficients
        fitted = expit(margins)
        variances = fitted * (1 - fitted)
        information = (design * variances[:, None]).T @ design + 1e-12 * np.eye(design.shape[1])
        likelihood = float(np.sum(truth * margins - np.logaddexp(0, margins)))
        residual = truth - fitted
        if firth:
            likelihood += 0.5 * float(np.linalg.slogdet(information)[1])
            leverage = variances * np.einsum("ij,jk,ik->i", design, np.linalg.inv(information), design)
            residual = residual + leverage * (0.5 - fitted)
        return likelihood, design.T @ residual, information

    coefficients = np.zeros(design.shape[1])
    reached, gradient, information = score(coefficients)
    for _ in range(100):
        step = np.clip(np.linalg.solve(information, gradient), -5, 5)
        while np.abs(step).max() > 1e-10:
            found = score(coefficients + step)
            if found[0] >= reached - 1e-12:
                break
            step = step / 2
        else:
            break
        coefficients = coefficients + step
        reached, gradient, information = found
    return coefficients


def _match_mean(margins: np.ndarray, truth: np.ndarray) -> float:
    """The constant that makes the mean of sigmoid(margins + constant) the share of abnormal rows."""
    from scipy.optimize import brentq
    from scipy.special import expit

    return float(brentq(lambda shift: float(np.mean(expit(margins + shift)) - truth.mean()), -60, 60))


def _robust_errors(
    design: np.ndarray, truth: np.ndarray, margins: np.ndarray, index: np.ndarray, n_clusters: int
) -> np.ndarray:
    """Standard errors `[k]` that allow for correlated rows (Liang and Zeger, Biometrika 73, 1986)."""
    from scipy.special import expit

    fitted = expit(margins)
    bread = np.linalg.inv((design * (fitted * (1 - fitted))[:, None]).T @ design)
    residuals = (truth - fitted)[:, None]
    scores = np.stack([np.bincount(index, column, n_clusters) for column in (design * residuals).T], 1)
    return np.sqrt(np.diag(n_clusters / (n_clusters - 1) * bread @ scores.T @ scores @ bread))
