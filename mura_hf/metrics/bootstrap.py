"""Confidence intervals from a bootstrap over patients.

Studies of one patient are not independent, so whole patients are resampled (Field and Welsh, J. R. Stat. Soc. B 69,
2007). Each resample is a vector of counts, and every metric is a function of sums weighted by these counts. All
resamples are therefore computed at once, without a loop.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from .classification import N_BINS, bin_indices, check_predictions

FIGURES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "kappa", "auroc", "auprc", "brier", "ece")
"""Names of the metrics that have intervals."""


def bootstrap_confidence_intervals(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    threshold: float = 0.5,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Computes percentile intervals of the metrics in `FIGURES`.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal), or `[runs, n]` of several runs whose metrics are averaged.
        groups: `[n]`, the patient of each row.
        threshold: A row is called abnormal strictly above it.
        n_resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Seed of the resampling.

    Returns:
        Metric -> (low, high). Resamples in which a metric is undefined are ignored; a metric that is undefined in
        every resample is left out.

    Raises:
        ValueError: If lengths differ, there are no rows, or a value is not a probability.
    """
    truth, runs = _check(labels, np.atleast_2d(np.asarray(probabilities, np.float64)), groups)
    counts = resample_counts(groups, len(truth), n_resamples, seed)
    by_run = [weighted_figures(truth, values, counts, threshold) for values in runs]
    samples = {name: np.mean([figures[name] for figures in by_run], axis=0) for name in FIGURES}
    finite = {name: sample[np.isfinite(sample)] for name, sample in samples.items()}
    return {name: percentile_interval(sample, level) for name, sample in finite.items() if len(sample)}


def paired_bootstrap(
    labels: Sequence[int] | np.ndarray,
    probabilities_a: Sequence[float] | np.ndarray,
    probabilities_b: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    threshold: float | tuple[float, float] = 0.5,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Compares two models on the same rows: the difference a - b of each metric in `FIGURES`.

    Both models are measured on the same resamples of patients, so variation that affects both cancels out. The
    resamples are those of `bootstrap_confidence_intervals` with the same seed.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities_a: `[n]`, P(abnormal) by model a, or `[runs, n]` of several runs whose metrics are averaged.
        probabilities_b: `[n]` or `[runs, n]`, P(abnormal) by model b.
        groups: `[n]`, the patient of each row.
        threshold: A row is called abnormal strictly above it; a pair gives a and b different thresholds.
        n_resamples, level, seed: See `bootstrap_confidence_intervals`.

    Returns:
        Metric -> `difference` on the data itself, its percentile interval `low` and `high`, and a two-sided `p_value`:
        twice the share of resamples on the rarer side of 0, where the data counts as one resample (Davison and
        Hinkley, "Bootstrap methods and their application", 1997, chapter 4). A metric that is undefined on the data
        or in every resample is left out. For `brier` and `ece`, lower is better.

    Raises:
        ValueError: If lengths differ, there are no rows, or a value is not a probability.
    """
    runs_a, runs_b = (np.atleast_2d(np.asarray(values, np.float64)) for values in (probabilities_a, probabilities_b))
    truth, runs = _check(labels, [*runs_a, *runs_b], groups)
    counts = np.vstack([np.ones(len(truth)), resample_counts(groups, len(truth), n_resamples, seed)])
    threshold_a, threshold_b = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    thresholds = [threshold_a] * len(runs_a) + [threshold_b] * len(runs_b)
    by_run = [weighted_figures(truth, values, counts, at) for values, at in zip(runs, thresholds, strict=True)]
    compared = {}
    for name in FIGURES:
        samples = np.stack([figures[name] for figures in by_run])
        differences = samples[: len(runs_a)].mean(0) - samples[len(runs_a) :].mean(0)
        sample = differences[1:][np.isfinite(differences[1:])]
        if np.isfinite(differences[0]) and len(sample):
            low, high = percentile_interval(sample, level)
            rarer = min((sample <= 0).sum(), (sample >= 0).sum())
            p_value = min(1.0, 2 * float(1 + rarer) / (1 + len(sample)))
            compared[name] = {"difference": float(differences[0]), "low": low, "high": high, "p_value": p_value}
    return compared


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Computes the percentile interval (low, high) of the mean of any numbers.

    Args:
        values: `[n]`.
        groups, n_resamples, level, seed: See `bootstrap_confidence_intervals`.

    Raises:
        ValueError: If lengths differ, or there are no values.
    """
    numbers = np.asarray(values, np.float64)
    counts = resample_counts(groups, len(numbers), n_resamples, seed)
    return percentile_interval(counts @ numbers / counts.sum(1), level)


def mean_with_interval(
    values: Sequence[float] | np.ndarray, groups: Sequence[Hashable] | np.ndarray
) -> dict[str, float]:
    """Returns the `mean` of values `[n]`, and `low` and `high` from `bootstrap_mean`."""
    low, high = bootstrap_mean(values, groups)
    return {"mean": float(np.mean(np.asarray(values, np.float64))), "low": low, "high": high}


def weighted_figures(
    truth: np.ndarray, values: np.ndarray, counts: np.ndarray, threshold: float
) -> dict[str, np.ndarray]:
    """Computes the metrics in `FIGURES` for several weightings of the same rows.

    With whole numbers as weights, each result equals `classification_metrics` of the rows repeated that often.

    Args:
        truth: bool `[n]`, True for abnormal.
        values: float64 `[n]`, P(abnormal).
        counts: float64 `[resamples, n]`, weights, 0 or above.
        threshold: A row is called abnormal strictly above it.

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
    positive = _sum_ties(counts, order, starts, truth)
    negative = _sum_ties(counts, order, starts, ~truth)
    hits, alarms = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = (positive * (alarms[:, -1:] - alarms + 0.5 * negative)).sum(1) / (hits[:, -1] * alarms[:, -1])
        precision = np.divide(hits, hits + alarms, out=np.zeros_like(hits), where=hits + alarms > 0)
        auprc = (positive * precision).sum(1) / hits[:, -1]
    return auroc, auprc


def _sum_ties(counts: np.ndarray, order: np.ndarray, starts: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Weights of the selected rows, summed over runs of equal values: `[resamples, runs]`."""
    weights = counts[:, order] * selected[order]
    return weights if len(starts) == len(order) else np.add.reduceat(weights, starts, axis=1)


def _check(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the labels as bool `[n]` and each run's probabilities as float64 `[n]`."""
    truth, runs = np.asarray(labels), [np.asarray(values, np.float64) for values in probabilities]
    if not len(truth) or {len(truth), len(groups), *map(len, runs)} != {len(truth)}:
        lengths = " and ".join(str(len(values)) for values in runs)
        raise ValueError(
            f"{len(truth)} labels, {lengths} probabilities and {len(groups)} groups; need the same number, not 0"
        )
    for values in runs:
        check_predictions(truth, values)
    return truth.astype(bool), runs


def percentile_interval(sample: np.ndarray, level: float) -> tuple[float, float]:
    """Returns the central interval (low, high) that holds a share `level` of a sample `[n]`."""
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resample_counts(groups: Sequence[Hashable] | np.ndarray, n: int, n_resamples: int, seed: int) -> np.ndarray:
    """Draws resamples of whole groups and counts how often each row is drawn: float64 `[n_resamples, n]`."""
    if n != len(groups) or not n:
        raise ValueError(f"{n} values and {len(groups)} groups; need the same number, not 0")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    index = np.fromiter((numbers[group] for group in groups), np.int64, n)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=n_resamples)
    return draws[:, index].astype(np.float64)
