"""Weights of an ensemble's members."""

import numpy as np
from scipy.optimize import minimize

_EDGE = 1e-12


def fit_member_weights(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """The convex weights whose mixture of the members' probabilities has the lowest cross entropy.

    The problem is convex: -mean log sum_m w_m P_m(true label), over w on the simplex.

    Args:
        probabilities: `[M, n]`, P(abnormal) of each member for each study.
        labels: int `[n]`, 0 normal and 1 abnormal.

    Returns:
        A weight for each member, none negative; they sum to 1.

    Raises:
        ValueError: If the labels lack a class, or there is nothing to fit.
    """
    if len(probabilities) < 1 or set(np.unique(labels)) != {0, 1}:
        raise ValueError("member weights need a member or more, and normal and abnormal studies to be fitted on")
    right = np.clip(np.where(labels == 1, probabilities, 1 - probabilities), _EDGE, 1)
    n = len(right)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = weights @ right
        return float(-np.log(mixed).mean()), -(right / mixed).mean(1)

    found = minimize(
        loss,
        np.full(n, 1 / n),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": lambda weights: np.ones(n)},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weights = np.clip(found.x, 0, None)
    return [float(weight) for weight in weights / weights.sum()]
