"""Classification metrics with abnormal as the positive class, their curves, pooling of views, and a baseline."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

Numbers = Sequence[float] | np.ndarray
"""A number for each row, such as its label or its probability."""

Groups = Sequence[Hashable] | np.ndarray
"""The group of each row, such as its patient."""

N_BINS = 15
"""Number of bins of equal width for reliability diagrams and the calibration error."""

FIGURES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "kappa", "auroc", "auprc", "brier", "ece")
"""Names of the metrics that can be weighted."""

POOLINGS = ("mean", "max", "noisy_or")
"""Rules of `aggregate_studies`."""

MIN_SIZES = {
    "comparison": (10, 10),  # with fewer, a gain of .1 in AUROC is hardly ever found; an interval needs 20 patients
    "calibration": (20, 5),  # with fewer, a fitted slope and intercept often raise the Brier score
    "operating_points": (30, 5),  # with fewer, Youden's threshold is mostly chance; guarantees need 45 patients
}
"""What needs studies -> the smallest numbers of studies, and of their patients, in each class.

Cross-validation of a calibration needs five patients.
"""

_DIGITS = 5  # of points on curves


def classification_metrics(
    labels: Numbers, probabilities: Numbers, threshold: float = 0.5
) -> dict[str, float | int | None]:
    """Computes every metric that this project reports for one set of predictions.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal) in [0, 1].
        threshold: A row is called abnormal strictly above it.

    Returns:
        `n`, `n_abnormal`, and the metrics in `FIGURES`: `f1` is that of abnormal, `kappa` Cohen's (unweighted: Educ.
        Psychol. Meas. 20, 1960), `auprc` the average precision, `ece` the expected calibration error of P(abnormal)
        over 15 bins of equal width (Naeini et al., 2015). Undefined metrics are None: `auroc`, `auprc` and `kappa` if
        only one class is present.

    Raises:
        ValueError: If lengths differ, labels are not 0 or 1, or probabilities lie outside [0, 1].
    """
    truth, values = check_predictions(labels, probabilities)
    figures = weighted_figures(truth == 1, values, np.ones((1, len(truth))), threshold) if len(truth) else {}
    numbers = {name: float(figures[name][0]) if figures else np.nan for name in FIGURES}
    found = {name: number if np.isfinite(number) else None for name, number in numbers.items()}
    return {"n": len(truth), "n_abnormal": int((truth == 1).sum()), **found}


def too_few_studies(labels: Numbers, patients: Groups, what: str) -> str | None:
    """Says that studies are too few for something, such as "too few: 7 studies, 3 abnormal; ..."; None if not.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal, one for each study.
        patients: `[n]`, the patient of each study.
        what: Key of `MIN_SIZES`.
    """
    (n_studies, n_patients), truth = MIN_SIZES[what], np.asarray(labels)
    by_class = [[patient for patient, one in zip(patients, truth, strict=True) if one == label] for label in (0, 1)]
    if all(len(found) >= n_studies and len(set(found)) >= n_patients for found in by_class):
        return None
    return (
        f"too few: {len(truth)} studies of {len(set(patients))} patients, {(truth == 1).sum()} abnormal; each class "
        f"needs {n_studies} studies of {n_patients} patients"
    )


def confusion_matrix(labels: Numbers, probabilities: Numbers, threshold: float = 0.5) -> list[list[int]]:
    """Counts `[[true negatives, false positives], [false negatives, true positives]]`.

    Takes and raises the same as `classification_metrics`.
    """
    truth, values = check_predictions(labels, probabilities)
    counts = np.bincount(2 * truth.astype(np.int64) + (values > threshold), minlength=4)
    return counts.reshape(2, 2).tolist()


def check_predictions(labels: Numbers, probabilities: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels `[n]` and probabilities float64 `[n]`; raises as described in `classification_metrics`."""
    truth, values = np.asarray(labels), np.asarray(probabilities, np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(f"labels have shape {truth.shape} and probabilities {values.shape}; both must be [n]")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("labels must be 0 (normal) or 1 (abnormal)")
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("probabilities must lie in [0, 1]")
    return truth, values


def weighted_figures(
    truth: np.ndarray, values: np.ndarray, counts: np.ndarray, threshold: float | np.ndarray
) -> dict[str, np.ndarray]:
    """Computes the metrics in `FIGURES` for several weightings of the same rows.

    With whole numbers as weights, each result equals `classification_metrics` of the rows repeated that often.

    Args:
        truth: bool `[n]`, True for abnormal.
        values: float64 `[n]`, P(abnormal).
        counts: float64 `[resamples, n]`, weights, 0 or above.
        threshold: A row is called abnormal strictly above it; one number, or `[n]`.

    Returns:
        Metric -> float64 `[resamples]`, not finite where the metric is undefined.
    """
    called = values > threshold
    hits, misses = counts @ (truth & called), counts @ (truth & ~called)
    alarms, rejections = counts @ (~truth & called), counts @ (~truth & ~called)
    abnormal, normal = hits + misses, alarms + rejections
    n, single = abnormal + normal, (abnormal == 0) | (normal == 0)
    auroc, auprc = _areas(truth, values, counts)
    gaps = np.zeros((len(values), N_BINS))
    gaps[np.arange(len(values)), bin_indices(values)] = truth - values
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = (abnormal * (hits + alarms) + normal * (rejections + misses)) / n**2
        accuracy = (hits + rejections) / n
        return {
            "accuracy": accuracy,
            "sensitivity": hits / abnormal,
            "specificity": rejections / normal,
            "precision": hits / (hits + alarms),
            "f1": 2 * hits / (2 * hits + alarms + misses),
            "kappa": np.where(single, np.nan, (accuracy - chance) / (1 - chance)),
            "auroc": auroc,
            "auprc": np.where(single, np.nan, auprc),
            "brier": counts @ (values - truth) ** 2 / n,
            "ece": np.abs(counts @ gaps).sum(1) / n,
        }


def _areas(truth: np.ndarray, values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve (Mann-Whitney, ties count half) and average precision, each `[resamples]`."""
    order = np.argsort(-values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) < 0])
    weights, abnormal = counts[:, order], truth[order]
    positive, negative = _sum_ties(weights * abnormal, starts), _sum_ties(weights * ~abnormal, starts)
    hits, alarms = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = (positive * (alarms[:, -1:] - alarms + 0.5 * negative)).sum(1) / (hits[:, -1] * alarms[:, -1])
        precision = np.divide(hits, hits + alarms, out=np.zeros_like(hits), where=hits + alarms > 0)
        auprc = (positive * precision).sum(1) / hits[:, -1]
    return auroc, auprc


def _sum_ties(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Weights `[resamples, n]`, summed over runs of equal values: `[resamples, runs]`."""
    return weights if len(starts) == weights.shape[1] else np.add.reduceat(weights, starts, axis=1)


def check_runs(
    labels: Numbers, probabilities: Sequence[Numbers] | np.ndarray, groups: Groups
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the labels as bool `[n]` and each run's probabilities as float64 `[n]`."""
    truth, runs = np.asarray(labels), [np.asarray(values, np.float64) for values in probabilities]
    if not len(truth) or {len(truth), len(groups), *map(len, runs)} != {len(truth)}:
        lengths = " and ".join(str(len(values)) for values in runs)
        raise ValueError(
            f"{len(truth)} labels, {lengths} probabilities and {len(groups)} groups: they must have the same length, "
            "above 0"
        )
    for values in runs:
        check_predictions(truth, values)
    return truth.astype(bool), runs


def measure_curves(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Computes the points of the curves that `plot_evaluation` draws, from labels and P(abnormal) `[n]`.

    Returns:
        `roc` with `false_positive_rate` and `sensitivity`, and `precision_recall` with `sensitivity` and `precision`.
        Points on straight segments are dropped. Both are None if only one class is present.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve  # an extra, and slow to import

    if len(np.unique(labels)) != 2:
        return {"roc": None, "precision_recall": None}
    false_positive_rate, sensitivity, _ = roc_curve(labels, probabilities)
    precision, recall, _ = precision_recall_curve(labels, probabilities, drop_intermediate=True)
    return {
        "roc": {"false_positive_rate": _round(false_positive_rate), "sensitivity": _round(sensitivity)},
        "precision_recall": {"sensitivity": _round(recall), "precision": _round(precision)},
    }


def _round(values: np.ndarray) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]


def measure_reliability(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Computes a reliability diagram (Niculescu-Mizil and Caruana, ICML 2005) from labels and P(abnormal) `[n]`.

    Returns `n`, `n_abnormal`, `mean` probability and `share` of abnormal of each bin that is not empty.
    """
    bins, truth = bin_indices(np.asarray(probabilities)), np.asarray(labels)
    return [
        {
            "n": int(inside.sum()),
            "n_abnormal": int(truth[inside].sum()),
            "mean": float(np.mean(probabilities[inside])),
            "share": float(truth[inside].mean()),
        }
        for inside in (bins == number for number in np.unique(bins))
    ]


def bin_indices(probabilities: np.ndarray) -> np.ndarray:
    """Returns the bin (0 to `N_BINS` - 1) of each probability in [0, 1], int64 `[n]`."""
    return np.minimum((probabilities * N_BINS).astype(np.int64), N_BINS - 1)


def aggregate_studies(study_ids: Groups, probabilities: Numbers, how: str = "mean") -> tuple[list[Any], np.ndarray]:
    """Pools the probabilities of the views of each study.

    Args:
        study_ids: `[n]`, the study of each view, in any order.
        probabilities: `[n]`, P(abnormal) of each view, in [0, 1].
        how: "mean" is the MURA paper's rule. "max" takes the most suspicious view. "noisy_or" is 1 - prod(1 - p), the
            probability that at least one view is abnormal if views were independent. The last two grow with the number
            of views, which alone carries some information about the label; compare with `view_count_baseline`.

    Returns:
        The study ids in first-seen order and their probabilities, float64 `[s]`.

    Raises:
        ValueError: If lengths differ, `how` is unknown, or noisy-or gets values outside [0, 1].
    """
    values = np.asarray(probabilities, np.float64)
    if how not in POOLINGS:
        raise ValueError(f"how is {how!r}: it must be one of {', '.join(POOLINGS)}")
    if values.shape != (len(study_ids),):
        raise ValueError(f"{len(study_ids)} study ids but probabilities of shape {values.shape}")
    index, n_studies = cluster_index(study_ids)
    if how == "max":
        pooled = np.full(n_studies, -np.inf)
        np.maximum.at(pooled, index, values)
    elif how == "noisy_or":
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("noisy_or needs probabilities in [0, 1]")
        with np.errstate(divide="ignore"):  # log 0 of a certain view makes the study certain
            pooled = -np.expm1(np.bincount(index, weights=np.log1p(-values), minlength=n_studies))
    else:
        pooled = np.bincount(index, values, n_studies) / np.bincount(index, minlength=n_studies)
    return list(dict.fromkeys(study_ids)), pooled


def cluster_index(groups: Groups) -> tuple[np.ndarray, int]:
    """Returns the number of the patient (or study) of each row, int64 `[n]`, and the number of patients."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.fromiter((numbers[group] for group in groups), np.int64, len(groups)), len(numbers)


def view_count_baseline(
    train_view_counts: Numbers, train_labels: Numbers, view_counts: Numbers, smoothing: float = 10.0
) -> np.ndarray:
    """Predicts P(abnormal) of a study from its number of views alone.

    Each number of views gets its own smoothed share of abnormal studies, because more views need not mean more
    abnormal: (abnormal + smoothing * overall share) / (studies + smoothing). A number of views that does not occur in
    train gets the overall share.

    Args:
        train_view_counts: `[m]`, number of views of each study in train.
        train_labels: `[m]`, 0 normal and 1 abnormal.
        view_counts: `[n]`, number of views of the studies to predict.
        smoothing: Weight of the overall share, in studies; 0 or above.

    Returns:
        float64 `[n]`.
    """
    train, asked, truth = np.asarray(train_view_counts), np.asarray(view_counts), np.asarray(train_labels, np.float64)
    overall = truth.mean()
    shares = {
        count: (truth[train == count].sum() + smoothing * overall) / ((train == count).sum() + smoothing)
        for count in np.unique(train).tolist()
    }
    return np.array([shares.get(count, overall) for count in asked.tolist()], np.float64)
