"""Baselines that do not look at any image. Every evaluation reports them beside the model."""

from collections.abc import Sequence

import numpy as np


def random_baseline(n: int, seed: int = 0) -> np.ndarray:
    """Returns uniform random probabilities, float64 `[n]` in [0, 1)."""
    return np.random.default_rng(seed).random(n)


def constant_baseline(n: int, probability: float) -> np.ndarray:
    """Returns the same P(abnormal) in [0, 1] for every row, such as the share of abnormal in train: float64 `[n]`."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}: it must lie in [0, 1]")
    return np.full(n, float(probability))


def view_count_baseline(
    train_view_counts: Sequence[int] | np.ndarray,
    train_labels: Sequence[int] | np.ndarray,
    view_counts: Sequence[int] | np.ndarray,
    smoothing: float = 10.0,
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

    Raises:
        ValueError: If train is empty, lengths differ, a count is below 1 or the smoothing is negative.
    """
    train, asked, truth = np.asarray(train_view_counts), np.asarray(view_counts), np.asarray(train_labels, np.float64)
    if train.shape != truth.shape or train.ndim != 1 or not len(train):
        raise ValueError(
            f"train has view counts of shape {train.shape} and labels of shape {truth.shape}; it needs one label a "
            "study and at least one study"
        )
    if min(train.min(), asked.min(initial=1)) < 1 or smoothing < 0:
        raise ValueError("view counts must be 1 or above and smoothing 0 or above")
    overall = truth.mean()
    shares = {
        count: (truth[train == count].sum() + smoothing * overall) / ((train == count).sum() + smoothing)
        for count in np.unique(train).tolist()
    }
    return np.array([shares.get(count, overall) for count in asked.tolist()], np.float64)
