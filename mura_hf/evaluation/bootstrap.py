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
        ValueError: If the lengths differ or there is nothing to resample.
    """
    truth, runs = _check(labels, np.atleast_2d(np.asarray(probabilities, np.float64)), groups)
    counts = _resample(groups, len(truth), n_resamples, seed)
    each = [_figures(truth, values, counts, threshold) for values in runs]
    samples = {name: np.mean([one[name] for one in each], axis=0) for name in BOOTSTRAPPED}
    kept = {name: sample[np.isfinite(sample)] for name, sample in samples.items()}
    return {name: _interval(sample, level) for name, sample in kept.items() if len(sample)}


def paired_bootstrap(
    labels: Sequence[int] | np.ndarray,
    probabilities_a: Sequence[float] | np.ndarray,
    probabilities_b: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    threshold: float = 0.5,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """How much better a is than b on the same rows: differences a - b of the figures in `BOOTSTRAPPED`.

    Both are measured on the same resamples of patients, the ones that `bootstrap_confidence_intervals` draws by the
    same seed, so that what makes a resample hard for both cancels out.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities_a: `[n]`, P(abnormal) by a; or `[runs, n]` by several runs of a, whose figures are averaged.
        probabilities_b: `[n]` or `[runs, n]`, P(abnormal) by b.
        groups: `[n]`, the patient of each row.
        threshold: Abnormal is called strictly above it, by both.
        n_resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Of the resampling.

    Returns:
        Name of a figure -> `difference` on the data as they are; `low` and `high`, its percentile interval; `p_value`,
        two-sided: twice the share of resamples that lie at 0 or on its rarer side, the data counted in as one of
        them, 1 at most (Davison and Hinkley, "Bootstrap methods and their application", 1997, chapter 4, for the
        count). Resamples in which a figure is not defined for both are left out; a figure that is not defined on the
        data or in any resample is left out too. A lower Brier score is the better one.

    Raises:
        ValueError: If the lengths differ or there is nothing to resample.
    """
    runs_a, runs_b = (np.atleast_2d(np.asarray(one, np.float64)) for one in (probabilities_a, probabilities_b))
    truth, runs = _check(labels, [*runs_a, *runs_b], groups)
    counts = np.vstack([np.ones(len(truth)), _resample(groups, len(truth), n_resamples, seed)])
    figures = [_figures(truth, values, counts, threshold) for values in runs]
    found = {}
    for name in BOOTSTRAPPED:
        samples = np.stack([one[name] for one in figures])
        differences = samples[: len(runs_a)].mean(0) - samples[len(runs_a) :].mean(0)
        sample = differences[1:][np.isfinite(differences[1:])]
        if np.isfinite(differences[0]) and len(sample):
            low, high = _interval(sample, level)
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
    counts = _resample(groups, len(numbers), n_resamples, seed)
    return _interval(counts @ numbers / counts.sum(1), level)


def _check(
    labels: Sequence[int] | np.ndarray,
    probabilities: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels as bool `[n]` and each set of probabilities as float64 `[n]`."""
    truth, sets = np.asarray(labels).astype(bool), [np.asarray(one, np.float64) for one in probabilities]
    if not len(truth) or {len(truth), len(groups), *map(len, sets)} != {len(truth)}:
        lengths = " and ".join(str(len(one)) for one in sets)
        raise ValueError(
            f"{len(truth)} labels, {lengths} probabilities and {len(groups)} groups; need the same number, not 0"
        )
    return truth, sets


def _interval(sample: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _figures(truth: np.ndarray, values: np.ndarray, counts: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """The figures in `BOOTSTRAPPED` under each row of weights `[resamples, n]`; not finite where not defined."""
    called = values > threshold
    hits, misses = counts @ (truth & called), counts @ (truth & ~called)
    alarms, rejections = counts @ (~truth & called), counts @ (~truth & ~called)
    n = hits + misses + alarms + rejections
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = ((hits + misses) * (hits + alarms) + (rejections + alarms) * (rejections + misses)) / n**2
        accuracy = (hits + rejections) / n
        return {
            "accuracy": accuracy,
            "sensitivity": hits / (hits + misses),
            "specificity": rejections / (rejections + alarms),
            "precision": hits / (hits + alarms),
            "f1": 2 * hits / (2 * hits + alarms + misses),
            "kappa": np.where(chance < 1, (accuracy - chance) / (1 - chance), np.nan),
            "auroc": _weighted_auroc(truth, values, counts),
            "brier": counts @ (values - truth) ** 2 / n,
        }


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
