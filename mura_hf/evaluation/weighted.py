"""Figures of merit under many weightings of the same rows at once, such as the counts of a bootstrap's resamples."""

import numpy as np

from .reliability import N_BINS, find_bins

FIGURES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "kappa", "auroc", "auprc", "brier", "ece")
"""Names of the figures that have intervals."""


def weighted_figures(
    truth: np.ndarray, values: np.ndarray, counts: np.ndarray, threshold: float
) -> dict[str, np.ndarray]:
    """`FIGURES` under each row of weights; what `classification_metrics` gives of the rows repeated so often.

    Args:
        truth: bool `[n]`, whether abnormal.
        values: float64 `[n]`, P(abnormal).
        counts: float64 `[resamples, n]`, not negative.
        threshold: Abnormal is called strictly above it.

    Returns:
        Name -> float64 `[resamples]`, not finite where the figure is not defined.
    """
    called = values > threshold
    hits, misses = counts @ (truth & called), counts @ (truth & ~called)
    alarms, rejections = counts @ (~truth & called), counts @ (~truth & ~called)
    abnormal, normal = hits + misses, alarms + rejections
    n, single = abnormal + normal, (abnormal == 0) | (normal == 0)
    auroc, auprc = _curves(truth, values, counts)
    gaps = np.zeros((len(values), N_BINS))
    gaps[np.arange(len(values)), find_bins(values)] = truth - values
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = (abnormal * (hits + alarms) + normal * (rejections + misses)) / n**2
        accuracy = (hits + rejections) / n
        found = {
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
    return {name: found[name] for name in FIGURES}


def _curves(truth: np.ndarray, values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curve, ties counted half (Mann and Whitney), and average precision, a step at each value."""
    order = np.argsort(-values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) < 0])
    positive = _sums(counts, order, starts, truth)
    negative = _sums(counts, order, starts, ~truth)
    hits, alarms = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = (positive * (alarms[:, -1:] - alarms + 0.5 * negative)).sum(1) / (hits[:, -1] * alarms[:, -1])
        precision = np.divide(hits, hits + alarms, out=np.zeros_like(hits), where=hits + alarms > 0)
        auprc = (positive * precision).sum(1) / hits[:, -1]
    return auroc, auprc


def _sums(counts: np.ndarray, order: np.ndarray, starts: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Weights of the chosen rows, added up over runs of equal values: `[resamples, runs]`."""
    if len(starts) == len(order):
        return counts[:, order] * chosen[order]
    return np.add.reduceat(counts[:, order] * chosen[order], starts, axis=1)
