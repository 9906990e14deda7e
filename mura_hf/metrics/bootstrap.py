"""Figures of merit under many weightings of the same rows at once, such as the counts of a bootstrap's resamples.

Intervals from a bootstrap over patients.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from .classification import N_BINS, check_answers, find_bins

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


def bootstrap_confidence_intervals(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    threshold: float = 0.5,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the figures in `FIGURES`, resampling whole groups (patients) with replacement.

    Studies of one patient are not independent, so patients are drawn, not studies (Field and Welsh, J. R. Stat. Soc.
    B 69, 2007). Every resample is a vector of counts, and all figures are sums weighted by them, so there is no loop
    over resamples.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal); or `[runs, n]` by several runs, whose figures are averaged.
        groups: `[n]`, the patient of each row.
        threshold: Abnormal is called strictly above it.
        n_resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Of the resampling.

    Returns:
        Name of a figure -> (low, high). Resamples in which a figure is not defined are left out; a figure that is
        defined in none is left out too.

    Raises:
        ValueError: If the lengths differ, there is nothing to resample, or a value is no probability.
    """
    truth, runs = _check(labels, np.atleast_2d(np.asarray(probabilities, np.float64)), groups)
    counts = resample_counts(groups, len(truth), n_resamples, seed)
    each = [weighted_figures(truth, values, counts, threshold) for values in runs]
    samples = {name: np.mean([one[name] for one in each], axis=0) for name in FIGURES}
    kept = {name: sample[np.isfinite(sample)] for name, sample in samples.items()}
    return {name: percentile_interval(sample, level) for name, sample in kept.items() if len(sample)}


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
    """How much better a is than b on the same rows: differences a - b of the figures in `FIGURES`.

    Both are measured on the same resamples of patients, the ones that `bootstrap_confidence_intervals` draws by the
    same seed, so that what makes a resample hard for both cancels out.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities_a: `[n]`, P(abnormal) by a; or `[runs, n]` by several runs of a, whose figures are averaged.
        probabilities_b: `[n]` or `[runs, n]`, P(abnormal) by b.
        groups: `[n]`, the patient of each row.
        threshold: Abnormal is called strictly above it, by both; or one of a's and one of b's.
        n_resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Of the resampling.

    Returns:
        Name of a figure -> `difference` on the data as they are; `low` and `high`, its percentile interval; `p_value`,
        two-sided: twice the share of resamples that lie at 0 or on its rarer side, the data counted in as one of
        them, 1 at most (Davison and Hinkley, "Bootstrap methods and their application", 1997, chapter 4, for the
        count). Resamples in which a figure is not defined for both are left out; a figure that is not defined on the
        data or in any resample is left out too. Lower Brier scores and
        calibration errors are the better ones.

    Raises:
        ValueError: If the lengths differ, there is nothing to resample, or a value is no probability.
    """
    runs_a, runs_b = (np.atleast_2d(np.asarray(one, np.float64)) for one in (probabilities_a, probabilities_b))
    truth, runs = _check(labels, [*runs_a, *runs_b], groups)
    counts = np.vstack([np.ones(len(truth)), resample_counts(groups, len(truth), n_resamples, seed)])
    of_a, of_b = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    thresholds = [of_a] * len(runs_a) + [of_b] * len(runs_b)
    figures = [weighted_figures(truth, values, counts, at) for values, at in zip(runs, thresholds, strict=True)]
    found = {}
    for name in FIGURES:
        samples = np.stack([one[name] for one in figures])
        differences = samples[: len(runs_a)].mean(0) - samples[len(runs_a) :].mean(0)
        sample = differences[1:][np.isfinite(differences[1:])]
        if np.isfinite(differences[0]) and len(sample):
            low, high = percentile_interval(sample, level)
            rarer = min((sample <= 0).sum(), (sample >= 0).sum())
            p_value = min(1.0, 2 * float(1 + rarer) / (1 + len(sample)))
            found[name] = {"difference": float(differences[0]), "low": low, "high": high, "p_value": p_value}
    return found


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
    counts = resample_counts(groups, len(numbers), n_resamples, seed)
    return percentile_interval(counts @ numbers / counts.sum(1), level)


def _check(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels as bool `[n]` and each set of probabilities as float64 `[n]`."""
    truth, sets = np.asarray(labels), [np.asarray(one, np.float64) for one in probabilities]
    if not len(truth) or {len(truth), len(groups), *map(len, sets)} != {len(truth)}:
        lengths = " and ".join(str(len(one)) for one in sets)
        raise ValueError(
            f"{len(truth)} labels, {lengths} probabilities and {len(groups)} groups; need the same number, not 0"
        )
    for one in sets:
        check_answers(truth, one)
    return truth.astype(bool), sets


def percentile_interval(sample: np.ndarray, level: float) -> tuple[float, float]:
    """The middle of a sample `[n]` that holds a share `level` of it: (low, high)."""
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resample_counts(groups: Sequence[Hashable] | np.ndarray, n: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each row is drawn in each resample of whole groups.

    Args:
        groups: `[n]`, the patient of each row.
        n: How many rows there are to be.
        n_resamples: Number of resamples.
        seed: Of the drawing.

    Returns:
        float64 `[n_resamples, n]`.

    Raises:
        ValueError: If there are other than `n` groups, or none.
    """
    if n != len(groups) or not n:
        raise ValueError(f"{n} values and {len(groups)} groups; need the same number, not 0")
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    index = np.fromiter((places[group] for group in groups), np.int64, n)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=n_resamples)
    return draws[:, index].astype(np.float64)
