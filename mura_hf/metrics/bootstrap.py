"""Percentile intervals from a bootstrap over patients. They are too narrow for few patients.

Studies of one patient are not independent, so whole patients are resampled (Field and Welsh, J. R. Stat. Soc. B 69,
2007). Each resample is a vector of counts, and every metric is a function of sums weighted by these counts. All
resamples are therefore computed at once, without a loop.
"""

import numpy as np

from .classification import FIGURES, Groups, Numbers, check_runs, cluster_index, weighted_figures
from .intervals import paired_comparison


def bootstrap_confidence_intervals(
    labels: Numbers,
    probabilities: Numbers,
    groups: Groups,
    threshold: float = 0.5,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Computes percentile intervals of the metrics in `FIGURES`.

    They are too narrow for few patients, so every report of this package uses `confidence_intervals` instead.

    Args:
        labels, probabilities, groups, threshold, level: See `confidence_intervals`; probabilities of one run, `[n]`.
        n_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        Metric -> (low, high). Resamples in which a metric is undefined are ignored; a metric that is undefined in
        every resample is left out.

    Raises:
        ValueError: If lengths differ, there are no rows, or a value is not a probability.
    """
    truth, (values,) = check_runs(labels, [probabilities], groups)
    counts = resample_counts(groups, len(truth), n_resamples, seed)
    samples = weighted_figures(truth, values, counts, threshold)
    finite = {name: sample[np.isfinite(sample)] for name, sample in samples.items()}
    return {name: percentile_interval(sample, level) for name, sample in finite.items() if len(sample)}


def paired_bootstrap(
    labels: Numbers,
    probabilities_a: Numbers,
    probabilities_b: Numbers,
    groups: Groups,
    threshold: float | tuple[float, float] = 0.5,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float | None]]:
    """Compares two models on the same rows: the difference a - b of each metric in `FIGURES`.

    Both models are measured on the same resamples of patients, so variation that affects both cancels out. The
    resamples are those of `bootstrap_confidence_intervals` with the same seed.

    Args:
        labels, probabilities_a, probabilities_b, groups, threshold, level: See `paired_comparison`; probabilities of
            one run each, `[n]`.
        n_resamples, seed: See `bootstrap_confidence_intervals`.

    Returns:
        Metric -> `difference` on the data itself, its percentile interval `low` and `high` (too narrow for few
        patients), and the two-sided `p_value` of `paired_comparison`, None where that has none. A metric that is
        undefined on the data or in every resample is left out. For `brier` and `ece`, lower is better.

    Raises:
        ValueError: If lengths differ, there are no rows, or a value is not a probability.
    """
    truth, runs = check_runs(labels, [probabilities_a, probabilities_b], groups)
    # first row: the data itself
    counts = np.vstack([np.ones(len(truth)), resample_counts(groups, len(truth), n_resamples, seed)])
    thresholds = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    first, second = (weighted_figures(truth, values, counts, at) for values, at in zip(runs, thresholds, strict=True))
    tested = paired_comparison(labels, probabilities_a, probabilities_b, groups, threshold)
    compared: dict[str, dict[str, float | None]] = {}
    for name in FIGURES:
        differences = first[name] - second[name]
        sample = differences[1:][np.isfinite(differences[1:])]
        if np.isfinite(differences[0]) and len(sample):
            low, high = percentile_interval(sample, level)
            p_value = tested[name]["p_value"] if name in tested else None
            compared[name] = {"difference": float(differences[0]), "low": low, "high": high, "p_value": p_value}
    return compared


def percentile_interval(sample: np.ndarray, level: float) -> tuple[float, float]:
    """Returns the central interval (low, high) that holds a share `level` of a sample `[n]`."""
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resample_counts(groups: Groups, n: int, n_resamples: int, seed: int) -> np.ndarray:
    """Draws resamples of whole groups and counts how often each row is drawn: float64 `[n_resamples, n]`."""
    if n != len(groups) or not n:
        raise ValueError(f"{n} labels and {len(groups)} groups: they must have the same length, above 0")
    index, n_groups = cluster_index(groups)
    draws = np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples)
    return draws[:, index].astype(np.float64)
