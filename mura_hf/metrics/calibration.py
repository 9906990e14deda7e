"""Calibration: one temperature for views, a slope and an intercept for studies."""

from collections.abc import Sequence

import numpy as np

_EPSILON = 1e-7  # keeps logits of probabilities finite


def fit_temperature(margins: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """Fits the temperature that maximises the likelihood of the views' labels.

    Source: Guo et al., "On calibration of modern neural networks", arXiv 1706.04599, section 4.2, with Platt's
    targets (see `fit_study_calibration`).

    Args:
        margins: `[n]`, z_abnormal - z_normal of views.
        labels: `[n]`, 0 normal and 1 abnormal.

    Returns:
        The temperature to divide margins by, between .05 and 20.

    Raises:
        ValueError: If lengths differ or a class is missing.
    """
    from scipy.optimize import minimize_scalar

    values, targets = _check(margins, labels)
    result = minimize_scalar(
        lambda log_t: _cross_entropy(values / np.exp(log_t), targets), bounds=np.log([0.05, 20.0]), method="bounded"
    )
    return float(np.exp(result.x))


def fit_study_calibration(
    probabilities: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray
) -> tuple[float, float]:
    """Fits slope and intercept on the logit of the studies' probabilities by maximum likelihood.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999, on the logit instead of the margin. His
    targets, (n1 + 1) / (n1 + 2) for the n1 abnormal studies and 1 / (n0 + 2) for the n0 normal ones, prevent extreme
    probabilities if there are few studies or if they are ranked perfectly.

    Args:
        probabilities: `[n]`, P(abnormal) of studies, in [0, 1].
        labels: `[n]`, 0 normal and 1 abnormal.

    Returns:
        Slope, between .05 and 20, and intercept, between -20 and 20.

    Raises:
        ValueError: If lengths differ, a class is missing or a value is not a probability.
    """
    from scipy.optimize import minimize
    from scipy.special import logit

    values, targets = _check(probabilities, labels)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"probabilities must lie in [0, 1], but range from {values.min():g} to {values.max():g}")
    margins = logit(np.clip(values, _EPSILON, 1 - _EPSILON))
    result = minimize(
        lambda x: _cross_entropy(np.exp(x[0]) * margins + x[1], targets),
        np.zeros(2),
        bounds=[tuple(np.log([0.05, 20.0])), (-20.0, 20.0)],
        method="L-BFGS-B",
    )
    return float(np.exp(result.x[0])), float(result.x[1])


def calibrate_studies(
    probabilities: Sequence[float] | np.ndarray, slope: float = 1.0, intercept: float = 0.0
) -> np.ndarray:
    """Returns sigmoid(slope * logit(p) + intercept), float64 `[n]`; slope 1 and intercept 0 return p unchanged."""
    values = np.asarray(probabilities, np.float64)
    if slope == 1 and intercept == 0:
        return values
    from scipy.special import expit, logit

    with np.errstate(divide="ignore"):
        return expit(slope * logit(values) + intercept)


def _check(values: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values and Platt's target of each."""
    numbers, truth = np.asarray(values, np.float64), np.asarray(labels, np.float64)
    if numbers.shape != truth.shape or numbers.ndim != 1:
        raise ValueError(f"{numbers.shape} values and {truth.shape} labels; need one label a value")
    if set(truth.tolist()) != {0.0, 1.0} or not np.isfinite(numbers).all():
        raise ValueError("calibration needs finite values and both normal and abnormal studies")
    n1 = truth.sum()
    return numbers, np.where(truth == 1, (n1 + 1) / (n1 + 2), 1 / (len(truth) - n1 + 2))


def _cross_entropy(margins: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0.0, margins) - targets * margins))
