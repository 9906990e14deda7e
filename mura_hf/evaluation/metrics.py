"""Figures of merit of a binary classifier; abnormal is the positive class."""

from collections.abc import Sequence

import numpy as np

from .reliability import find_bins

Matrix = Sequence[Sequence[int]]


def classification_metrics(
    labels: Sequence[int] | np.ndarray, probabilities: Sequence[float] | np.ndarray, threshold: float = 0.5
) -> dict[str, float | int | None]:
    """Computes every figure that the project reports for one set of labels and probabilities.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal) in [0, 1].
        threshold: Abnormal is called strictly above it.

    Returns:
        `n`, `n_abnormal`, those of `matrix_metrics`, `auroc`, `auprc` (average precision), `brier`, `ece` (expected
        calibration error of P(abnormal) over 15 bins of equal width). A figure that is not defined for the data is
        None: `auroc`, `auprc` and `kappa` where only one class is there.

    Raises:
        ValueError: If lengths differ, labels are not 0 or 1, or probabilities lie outside [0, 1].
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # half a second, which no predictor needs

    truth, values = check_answers(labels, probabilities)
    positive, n = truth == 1, len(truth)
    both = bool(positive.any() and not positive.all())
    return {
        "n": n,
        "n_abnormal": int(positive.sum()),
        **matrix_metrics(confusion_matrix(truth, values, threshold)),
        "auroc": float(roc_auc_score(truth, values)) if both else None,
        "auprc": float(average_precision_score(truth, values)) if both else None,
        "brier": float(np.mean((values - truth) ** 2)) if n else None,
        "ece": _expected_calibration_error(truth, values) if n else None,
    }


def confusion_matrix(
    labels: Sequence[int] | np.ndarray, probabilities: Sequence[float] | np.ndarray, threshold: float = 0.5
) -> list[list[int]]:
    """Counts of right and wrong answers.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal) in [0, 1].
        threshold: Abnormal is called strictly above it.

    Returns:
        A row for each truth, normal first, and a column for each answer: `[[true negatives, false positives], [false
        negatives, true positives]]`.

    Raises:
        ValueError: As `classification_metrics`.
    """
    truth, values = check_answers(labels, probabilities)
    counts = np.bincount(2 * truth.astype(np.int64) + (values > threshold), minlength=4)
    return counts.reshape(2, 2).tolist()


def matrix_metrics(matrix: Matrix) -> dict[str, float | None]:
    """The figures that a confusion matrix gives.

    Args:
        matrix: As `confusion_matrix` returns it.

    Returns:
        `accuracy`, `sensitivity`, `specificity`, `precision`, `f1` (of abnormal) and `kappa` (Cohen's, unweighted:
        Educ. Psychol. Meas. 20, 1960); None where one is not defined, kappa also where only one class is there.
    """
    (rejections, alarms), (misses, hits) = matrix
    n, abnormal, called = rejections + alarms + misses + hits, misses + hits, alarms + hits
    kappa = None
    if abnormal and n - abnormal:
        chance = (abnormal * called + (n - abnormal) * (n - called)) / n**2
        kappa = ((hits + rejections) / n - chance) / (1 - chance)
    return {
        "accuracy": _ratio(hits + rejections, n),
        "sensitivity": _ratio(hits, abnormal),
        "specificity": _ratio(rejections, n - abnormal),
        "precision": _ratio(hits, called),
        "f1": _ratio(2 * hits, 2 * hits + alarms + misses),
        "kappa": kappa,
    }


def check_answers(
    labels: Sequence[int] | np.ndarray, probabilities: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels `[n]` and probabilities, float64 `[n]`.

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
    return truth, values


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _expected_calibration_error(truth: np.ndarray, values: np.ndarray) -> float:
    """Mean gap between P(abnormal) and the share of abnormal over the bins, weighted by their size (Naeini et al.,
    2015).
    """
    gaps = np.bincount(find_bins(values), weights=truth - values)
    return float(np.abs(gaps).sum() / len(truth))
