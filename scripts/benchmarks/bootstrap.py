"""Measures the speed of the bootstrap and of the intervals beside a loop over scikit-learn.

Topics (1 minute):
  bootstrap  all figures over 2,000 resamples of 1,199 studies: how many times as fast as the same loop over
             scikit-learn; and the seconds of `confidence_intervals` for the same studies
"""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from harness import run_benchmark
from scipy.special import expit
from sklearn import metrics as reference
from tqdm.auto import tqdm

from mura_hf.metrics import bootstrap_confidence_intervals, confidence_intervals
from mura_hf.metrics.bootstrap import resample_counts
from mura_hf.metrics.classification import weighted_figures

_THRESHOLD = 0.5


def measure_speed(n: int = 1199, patients: int = 783, n_resamples: int = 2000) -> dict[str, float]:
    """Compares all figures except the calibration error with scikit-learn on the same resamples.

    Args:
        n: Number of studies.
        patients: Number of patients, approximately.
        n_resamples: Number of resamples.

    Returns:
        `seconds` and `their_seconds` of processor time; `interval_seconds` of `confidence_intervals`;
        `times_as_fast`, theirs over ours; `largest_difference` of any figure in any resample.
    """
    labels, probabilities, groups = _simulate(np.random.default_rng(0), patients, n)
    start = time.process_time()
    bootstrap_confidence_intervals(labels, probabilities, groups, n_resamples=n_resamples)
    ours = time.process_time() - start
    start = time.process_time()
    confidence_intervals(labels, probabilities, groups)
    intervals = time.process_time() - start
    counts = resample_counts(groups, n, n_resamples, 0)
    found = weighted_figures(labels == 1, probabilities, counts, _THRESHOLD)
    rows = []
    start = time.process_time()
    for draw in tqdm(counts.astype(int), desc="scikit-learn"):
        chosen = np.repeat(np.arange(n), draw)
        rows.append(_figures_of_scikit_learn(labels[chosen], probabilities[chosen]))
    theirs = time.process_time() - start
    differences = [
        np.nanmax(np.abs(found[name] - np.asarray([row[name] for row in rows], np.float64))) for name in rows[0]
    ]
    return {
        "seconds": round(ours, 3),
        "interval_seconds": round(intervals, 3),
        "their_seconds": round(theirs, 2),
        "times_as_fast": round(theirs / ours, 1),
        "largest_difference": float(max(differences)),
    }


def _figures_of_scikit_learn(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """All of `FIGURES` that scikit-learn has (not the expected calibration error); nan where not defined."""
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


def _simulate(
    rng: np.random.Generator, patients: int, n: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities and patients of studies. A random effect of the patient moves both labels and
    probabilities.

    With `n`, the patient of each of `n` studies is drawn; without, each patient has one to four studies.
    """
    groups = np.repeat(np.arange(patients), rng.choice(4, patients, p=[0.5, 0.3, 0.1, 0.1]) + 1)
    if n is not None:
        groups = rng.integers(0, patients, n)
    common = rng.normal(0, 1, patients)[groups]
    labels = (rng.random(len(groups)) < expit(0.8 * common - 0.3)).astype(int)
    margins = 1.4 * labels - 0.9 + 0.7 * common + rng.normal(0, 1, len(groups))
    return labels, np.round(expit(margins), 3), groups  # rounded, so that there are ties


TOPICS = {
    "bootstrap": (measure_speed, {"n": 200, "patients": 120, "n_resamples": 50}),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
