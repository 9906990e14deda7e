"""Calibration: one temperature for the views, a slope and an intercept for the studies."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

_EDGE = 1e-7  # probabilities are kept this far from 0 and 1, so that their logits stay finite


def fit_temperature(margins: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """The temperature that makes views' probabilities likeliest.

    Source: Guo et al., "On calibration of modern neural networks", arXiv 1706.04599, section 4.2, but with Platt's
    targets (see `fit_study_calibration`).

    Args:
        margins: `[n]`, z_abnormal - z_normal of views.
        labels: `[n]`, 0 normal and 1 abnormal.

    Returns:
        Between .05 and 20; the margins are to be divided by it.

    Raises:
        ValueError: If the lengths differ or a class is missing.
    """
    values, targets = _check(margins, labels)
    found = minimize_scalar(
        lambda log_t: _loss(values / np.exp(log_t), targets), bounds=np.log([0.05, 20.0]), method="bounded"
    )
    return float(np.exp(found.x))


def fit_study_calibration(
    probabilities: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray
) -> tuple[float, float]:
    """Slope and intercept on the logit of studies' probabilities that make these likeliest.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999, on the logit instead of the margin. His
    targets, (n1 + 1) / (n1 + 2) for the n1 abnormal studies and 1 / (n0 + 2) for the n0 normal ones, keep few studies,
    or such as are ranked perfectly, from calling for certainty.

    Args:
        probabilities: `[n]`, P(abnormal) of studies, in [0, 1].
        labels: `[n]`, 0 normal and 1 abnormal.

    Returns:
        Slope, between .05 and 20, and intercept.

    Raises:
        ValueError: If the lengths differ, a class is missing or a probability is none.
    """
    values, targets = _check(probabilities, labels)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"probabilities must lie in [0, 1], not run from {values.min():g} to {values.max():g}")
    margins = logit(np.clip(values, _EDGE, 1 - _EDGE))
    found = minimize(
        lambda x: _loss(np.exp(x[0]) * margins + x[1], targets),
        np.zeros(2),
        bounds=[tuple(np.log([0.05, 20.0])), (-20.0, 20.0)],
        method="L-BFGS-B",
    )
    return float(np.exp(found.x[0])), float(found.x[1])


def calibrate_studies(
    probabilities: Sequence[float] | np.ndarray, slope: float = 1.0, intercept: float = 0.0
) -> np.ndarray:
    """sigmoid(slope * logit(p) + intercept), float64 `[n]`; p itself with slope 1 and intercept 0."""
    values = np.asarray(probabilities, np.float64)
    if slope == 1 and intercept == 0:
        return values
    with np.errstate(divide="ignore"):
        return expit(slope * logit(values) + intercept)


def _check(values: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values, and Platt's target for each."""
    numbers, truth = np.asarray(values, np.float64), np.asarray(labels, np.float64)
    if numbers.shape != truth.shape or numbers.ndim != 1:
        raise ValueError(f"{numbers.shape} values and {truth.shape} labels; need one label a value")
    if set(truth.tolist()) != {0.0, 1.0} or not np.isfinite(numbers).all():
        raise ValueError("calibration needs finite values, normal studies and abnormal ones")
    n1 = truth.sum()
    return numbers, np.where(truth == 1, (n1 + 1) / (n1 + 2), 1 / (len(truth) - n1 + 2))


def _loss(margins: np.ndarray, targets: np.ndarray) -> float:
    """Mean cross entropy."""
    return float(np.mean(np.logaddexp(0.0, margins) - targets * margins))
