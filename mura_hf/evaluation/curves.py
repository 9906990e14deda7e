"""Curves of a classifier, as points."""

from typing import Any

import numpy as np

_DIGITS = 5


def measure_curves(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Points of the curves that `plot_evaluation` draws.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: float64 `[n]`, P(abnormal) in [0, 1].

    Returns:
        `roc`: `false_positive_rate` and `sensitivity`, corners only; `precision_recall`: `sensitivity` and
        `precision`, corners only; both None where only one class is there.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve  # half a second, which no predictor needs

    both = len(np.unique(labels)) == 2
    roc = precision_recall = None
    if both:
        false, true, _ = roc_curve(labels, probabilities)
        roc = {"false_positive_rate": _short(false), "sensitivity": _short(true)}
        precision, recall, _ = precision_recall_curve(labels, probabilities, drop_intermediate=True)
        precision_recall = {"sensitivity": _short(recall), "precision": _short(precision)}
    return {"roc": roc, "precision_recall": precision_recall}


def _short(values: np.ndarray) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]
