"""Bins of probabilities: how often what was called likely is so.

Figures of merit of a binary classifier; abnormal is the positive class.
Curves of a classifier, as points.
From views to studies.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

N_BINS = 15


def find_bins(probabilities: np.ndarray) -> np.ndarray:
    """The bin, of `N_BINS` of equal width, that each probability `[n]` in [0, 1] falls into: int64 `[n]`."""
    return np.minimum((probabilities * N_BINS).astype(np.int64), N_BINS - 1)


def measure_reliability(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """What a reliability diagram shows (Niculescu-Mizil and Caruana, ICML 2005).

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: float64 `[n]`, P(abnormal) in [0, 1].

    Returns:
        For each bin that holds any: `n`, `n_abnormal`, `mean` (of the probabilities) and `share` (of abnormal).
    """
    bins, truth = find_bins(np.asarray(probabilities)), np.asarray(labels)
    return [
        {
            "n": int(chosen.sum()),
            "n_abnormal": int(truth[chosen].sum()),
            "mean": float(np.mean(probabilities[chosen])),
            "share": float(truth[chosen].mean()),
        }
        for chosen in (bins == number for number in np.unique(bins))
    ]


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


POOLINGS = ("mean", "max", "noisy_or")


def aggregate_studies(
    study_ids: Sequence[Hashable] | np.ndarray, probabilities: Sequence[float] | np.ndarray, how: str = "mean"
) -> tuple[list[Any], np.ndarray]:
    """Pools the probabilities of views that belong to one study.

    Args:
        study_ids: `[n]`, the study of each view, in any order.
        probabilities: `[n]`, P(abnormal) of each view, in [0, 1].
        how: "mean", the MURA paper's rule; "max", the most suspicious view; "noisy_or", 1 - prod(1 - p), the chance
            that any view shows something if each spoke for itself. The latter two grow with the number of views,
            which alone tells a little about the label: set them beside `view_count_baseline`.

    Returns:
        The study ids in the order they are first seen, and their probabilities, float64 `[s]`.

    Raises:
        ValueError: If the lengths differ, `how` is unknown or noisy-or is given what is no probability.
    """
    values = np.asarray(probabilities, np.float64)
    if how not in POOLINGS:
        raise ValueError(f"how is {how!r}: it must be one of {', '.join(POOLINGS)}")
    if values.shape != (len(study_ids),):
        raise ValueError(f"{len(study_ids)} study ids but probabilities of shape {values.shape}")
    places = {study: place for place, study in enumerate(dict.fromkeys(study_ids))}
    index = np.fromiter((places[study] for study in study_ids), np.int64, len(study_ids))
    if how == "max":
        pooled = np.full(len(places), -np.inf)
        np.maximum.at(pooled, index, values)
    elif how == "noisy_or":
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("noisy_or needs probabilities in [0, 1]")
        with np.errstate(divide="ignore"):  # a view that is certain: log 0, and the study is certain
            pooled = -np.expm1(np.bincount(index, weights=np.log1p(-values), minlength=len(places)))
    else:
        sums = np.bincount(index, weights=values, minlength=len(places))
        pooled = sums / np.maximum(np.bincount(index, minlength=len(places)), 1)
    return list(places), pooled
