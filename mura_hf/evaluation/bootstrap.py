"""Intervals from a bootstrap over patients."""

from collections.abc import Hashable, Sequence

import numpy as np

BOOTSTRAPPED = ("accuracy", "sensitivity", "specificity", "precision", "f1", "kappa", "auroc", "brier")


def bootstrap_confidence_intervals(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    threshold: float = 0.5,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the figures in `BOOTSTRAPPED`, resampling whole groups (patients) with replacement.

    Studies of one patient are not independent, so patients are drawn, not studies (Field and Welsh, J. R. Stat. Soc.
    B 69, 2007). Every resample is a vector of counts, and all figures are sums weighted by them, so there is no loop
    over resamples.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal).
        groups: `[n]`, the patient of each row.
        threshold: Abnormal is called strictly above it.
        n_resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Of the resampling.

    Returns:
        Name of a figure -> (low, high). Resamples in which a figure is not defined are left out; a figure that is
        defined in none is left out too.

    Raises:
        ValueError: If the lengths differ or there is nothing to resample.
    """
    truth, values = np.asarray(labels).astype(bool), np.asarray(probabilities, np.float64)
    if not len(truth) == len(values) == len(groups) or not len(truth):
        raise ValueError(
            f"{len(truth)} labels, {len(values)} probabilities and {len(groups)} groups; need the same number, not 0"
        )
    counts = _resample(groups, len(truth), n_resamples, seed)

    called = values > threshold
    hits, misses = counts @ (truth & called), counts @ (truth & ~called)
    alarms, rejections = counts @ (~truth & called), counts @ (~truth & ~called)
    n = hits + misses + alarms + rejections
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = ((hits + misses) * (hits + alarms) + (rejections + alarms) * (rejections + misses)) / n**2
        accuracy = (hits + rejections) / n
        samples = {
            "accuracy": accuracy,
            "sensitivity": hits / (hits + misses),
            "specificity": rejections / (rejections + alarms),
            "precision": hits / (hits + alarms),
            "f1": 2 * hits / (2 * hits + alarms + misses),
            "kappa": np.where(chance < 1, (accuracy - chance) / (1 - chance), np.nan),
            "auroc": _weighted_auroc(truth, values, counts),
            "brier": counts @ (values - truth) ** 2 / n,
        }
    tails = [(1 - level) / 2, (1 + level) / 2]
    kept = {name: sample[np.isfinite(sample)] for name, sample in samples.items()}
    return {
        name: (float(low), float(high))
        for name, sample in kept.items()
        if len(sample)
        for low, high in [np.quantile(sample, tails)]
    }


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a mean, resampling whole groups (patients) with replacement.

    Args:
        values: `[n]`.
        groups: `[n]`, the patient of each value.
        n_resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Of the resampling.

    Returns:
        (low, high).

    Raises:
        ValueError: If the lengths differ or there is nothing to resample.
    """
    numbers = np.asarray(values, np.float64)
    counts = _resample(groups, len(numbers), n_resamples, seed)
    low, high = np.quantile(counts @ numbers / counts.sum(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resample(groups: Sequence[Hashable] | np.ndarray, n: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each row is drawn in each resample of whole groups, float64 `[resamples, n]`."""
    if n != len(groups) or not n:
        raise ValueError(f"{n} values and {len(groups)} groups; need the same number, not 0")
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    index = np.fromiter((places[group] for group in groups), np.int64, n)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=n_resamples)
    return draws[:, index].astype(np.float64)


def _weighted_auroc(truth: np.ndarray, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUROC under each row of weights `[resamples, n]`, ties counted half (Mann and Whitney)."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) > 0])
    positive = np.add.reduceat(counts[:, order] * truth[order], starts, axis=1)
    negative = np.add.reduceat(counts[:, order] * ~truth[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    return (positive * (below + 0.5 * negative)).sum(1) / (positive.sum(1) * negative.sum(1))
