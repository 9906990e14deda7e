"""Bins of probabilities: how often what was called likely is so."""

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
