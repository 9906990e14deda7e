"""Figures of merit of a binary classifier; abnormal is the positive class."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score

_ECE_BINS = 15


def classification_metrics(
    labels: Sequence[int] | np.ndarray, probabilities: Sequence[float] | np.ndarray, threshold: float = 0.5
) -> dict[str, float | int | None]:
    """Computes every figure that the project reports for one set of labels and probabilities.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal) in [0, 1].
        threshold: Abnormal is called strictly above it.

    Returns:
        `n`, `n_abnormal`, `accuracy`, `sensitivity`, `specificity`, `precision`, `f1` (of abnormal), `kappa` (Cohen's,
        unweighted), `auroc`, `auprc` (average precision), `brier`, `ece` (expected calibration error of P(abnormal)
        over 15 bins of equal width). A figure that is not defined for the data, such as the AUROC of one class, is
        None.

    Raises:
        ValueError: If lengths differ, labels are not 0 or 1, or probabilities lie outside [0, 1].
    """
    truth, values = np.asarray(labels), np.asarray(probabilities, np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(f"labels have shape {truth.shape} and probabilities {values.shape}; both must be [n]")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels must be 0 (normal) or 1 (abnormal)")
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("probabilities must lie in [0, 1]")
    positive, called = truth == 1, values > threshold
    hits, misses = int((positive & called).sum()), int((positive & ~called).sum())
    alarms, rejections = int((~positive & called).sum()), int((~positive & ~called).sum())
    n, both = len(truth), bool(positive.any() and not positive.all())
    kappa_defined = n > 0 and not (positive.all() and called.all()) and (positive.any() or called.any())
    return {
        "n": n,
        "n_abnormal": int(positive.sum()),
        "accuracy": _ratio(hits + rejections, n),
        "sensitivity": _ratio(hits, hits + misses),
        "specificity": _ratio(rejections, rejections + alarms),
        "precision": _ratio(hits, hits + alarms),
        "f1": _ratio(2 * hits, 2 * hits + alarms + misses),
        "kappa": float(cohen_kappa_score(truth, called.astype(int))) if kappa_defined else None,
        "auroc": float(roc_auc_score(truth, values)) if both else None,
        "auprc": float(average_precision_score(truth, values)) if positive.any() else None,
        "brier": float(np.mean((values - truth) ** 2)) if n else None,
        "ece": _expected_calibration_error(truth, values) if n else None,
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _expected_calibration_error(truth: np.ndarray, values: np.ndarray) -> float:
    """Mean gap between P(abnormal) and the share of abnormal over the bins, weighted by their size (Naeini et al.,
    2015).
    """
    bins = np.minimum((values * _ECE_BINS).astype(int), _ECE_BINS - 1)
    gaps = np.bincount(bins, weights=truth - values, minlength=_ECE_BINS)
    return float(np.abs(gaps).sum() / len(truth))
