"""What the bootstrap costs beside a loop over scikit-learn, and how often its intervals hold the truth."""

import time
import warnings
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn import metrics as reference
from tqdm.auto import tqdm

from mura_hf.metrics import bootstrap_confidence_intervals
from mura_hf.metrics.bootstrap import FIGURES, resample_counts, weighted_figures

_THRESHOLD = 0.5


def measure_bootstrap_cost(
    *, n: int = 1199, patients: int = 783, n_resamples: int = 2000, progress: bool = True
) -> dict[str, float]:
    """Times all figures but the calibration error, over resamples of patients, beside a loop that gives the same
    resamples to scikit-learn, in one process.

    Args:
        n: Studies.
        patients: About so many.
        n_resamples: Number of resamples.
        progress: Whether to show a progress bar.

    Returns:
        `seconds` and `their_seconds`; `times_as_fast`, theirs over ours; `largest_difference` of any figure of any
        resample.
    """
    labels, probabilities, groups = _simulate(np.random.default_rng(0), patients, n)
    start = time.perf_counter()
    bootstrap_confidence_intervals(labels, probabilities, groups, n_resamples=n_resamples)
    ours = time.perf_counter() - start
    counts = resample_counts(groups, n, n_resamples, 0)
    found = weighted_figures(labels == 1, probabilities, counts, _THRESHOLD)
    rows = []
    start = time.perf_counter()
    for draw in tqdm(counts.astype(int), desc="scikit-learn", disable=not progress):
        chosen = np.repeat(np.arange(n), draw)
        rows.append(figures_of_scikit_learn(labels[chosen], probabilities[chosen]))
    theirs = time.perf_counter() - start
    differences = [
        np.nanmax(np.abs(found[name] - np.asarray([row[name] for row in rows], np.float64))) for name in rows[0]
    ]
    return {
        "seconds": round(ours, 3),
        "their_seconds": round(theirs, 2),
        "times_as_fast": round(theirs / ours, 1),
        "largest_difference": float(max(differences)),
    }


def figures_of_scikit_learn(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Every figure of `FIGURES` that scikit-learn has: all but the expected calibration error; nan where not defined.

    Args:
        labels: `[n]`, 0 normal and 1 abnormal.
        probabilities: `[n]`, P(abnormal).
    """
    called, both = probabilities > _THRESHOLD, len(np.unique(labels)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "accuracy": reference.accuracy_score(labels, called),
            "sensitivity": reference.recall_score(labels, called, zero_division=np.nan),
            "specificity": reference.recall_score(labels, called, pos_label=0, zero_division=np.nan),
            "precision": reference.precision_score(labels, called, zero_division=np.nan),
            "f1": reference.f1_score(labels, called, zero_division=np.nan),
            "kappa": reference.cohen_kappa_score(labels, called) if both else np.nan,
            "auroc": reference.roc_auc_score(labels, probabilities) if both else np.nan,
            "auprc": reference.average_precision_score(labels, probabilities) if both else np.nan,
            "brier": reference.brier_score_loss(labels, probabilities, pos_label=1),
        }


def measure_coverage(
    *, n_simulations: int = 1000, patients: int = 400, n_resamples: int = 1000, progress: bool = True
) -> dict[str, Any]:
    """How often 95 % intervals hold the true figure, on simulated studies of which those of a patient are alike.

    The truth is that of four million studies drawn in the same way. The calibration error is left out: its estimate
    from few studies is too high by its nature, which no percentile mends.

    Args:
        n_simulations: Datasets.
        patients: In each, with one to four studies, 1.8 on average.
        n_resamples: Of each bootstrap.
        progress: Whether to show a progress bar.

    Returns:
        `simulations`, and the share of intervals that hold the truth by figure.
    """
    rng = np.random.default_rng(0)
    labels, probabilities, _ = _simulate(rng, 2_200_000)
    names = [name for name in FIGURES if name != "ece"]
    truth = weighted_figures(labels == 1, probabilities, np.ones((1, len(labels))), _THRESHOLD)
    held = dict.fromkeys(names, 0)
    for number in tqdm(range(n_simulations), desc="coverage", disable=not progress):
        found = bootstrap_confidence_intervals(*_simulate(rng, patients), n_resamples=n_resamples, seed=number)
        for name in names:
            low, high = found[name]
            held[name] += bool(low <= truth[name][0] <= high)
    return {"simulations": n_simulations, **{name: round(held[name] / n_simulations, 4) for name in names}}


def _simulate(
    rng: np.random.Generator, patients: int, n: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities and patients of studies; what a patient's have in common moves both.

    With `n`, so many studies, the patient of each drawn; else each patient has one to four.
    """
    groups = np.repeat(np.arange(patients), rng.choice(4, patients, p=[0.5, 0.3, 0.1, 0.1]) + 1)
    if n is not None:
        groups = rng.integers(0, patients, n)
    common = rng.normal(0, 1, patients)[groups]
    labels = (rng.random(len(groups)) < expit(0.8 * common - 0.3)).astype(int)
    margins = 1.4 * labels - 0.9 + 0.7 * common + rng.normal(0, 1, len(groups))
    return labels, np.round(expit(margins), 3), groups  # rounded: with ties
