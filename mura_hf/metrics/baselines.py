"""What can be had without looking at a picture: every model stands beside these."""

from collections.abc import Sequence

import numpy as np


def random_baseline(n: int, seed: int = 0) -> np.ndarray:
    """The random classifier: a uniform draw for each row.

    Study E's says abnormal at a draw of .5 or above, our figures at a probability strictly above the threshold. The
    two differ where a draw is .5 exactly, once in 2^53 draws.

    Args:
        n: Number of rows.
        seed: Of the draws.

    Returns:
        float64 `[n]` in [0, 1).
    """
    return np.random.default_rng(seed).random(n)


def constant_baseline(n: int, probability: float) -> np.ndarray:
    """The same answer for each row: 0 always normal, 1 always abnormal, or the share of abnormal in train.

    Args:
        n: Number of rows.
        probability: P(abnormal).

    Returns:
        float64 `[n]`.

    Raises:
        ValueError: If the probability lies outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}: it must lie in [0, 1]")
    return np.full(n, float(probability))


def view_count_baseline(
    train_view_counts: Sequence[int] | np.ndarray,
    train_labels: Sequence[int] | np.ndarray,
    view_counts: Sequence[int] | np.ndarray,
    smoothing: float = 10.0,
) -> np.ndarray:
    """P(abnormal | number of views), from nothing but how many pictures were taken of a study.

    For each number of views on its own (more views need not mean more abnormal), the share of abnormal among train's
    studies with that number, drawn towards train's overall share as if `smoothing` more studies had that one:
    (abnormal + smoothing * overall) / (studies + smoothing). A number that train does not hold gets the overall share.

    Args:
        train_view_counts: `[m]`, views of each study in train.
        train_labels: `[m]`, 0 normal and 1 abnormal.
        view_counts: `[n]`, views of the studies to answer for.
        smoothing: Weight of the overall share, in studies; 0 or above.

    Returns:
        float64 `[n]`.

    Raises:
        ValueError: If train is empty, its lengths differ, a count is below 1 or the smoothing below 0.
    """
    train, asked, truth = np.asarray(train_view_counts), np.asarray(view_counts), np.asarray(train_labels, np.float64)
    if train.shape != truth.shape or train.ndim != 1 or not len(train):
        raise ValueError(
            f"train has {train.shape} view counts and {truth.shape} labels; need one label a study, not 0"
        )
    if min(train.min(), asked.min(initial=1)) < 1 or smoothing < 0:
        raise ValueError("view counts must be 1 or above and smoothing 0 or above")
    overall = truth.mean()
    answers = {
        count: (truth[train == count].sum() + smoothing * overall) / ((train == count).sum() + smoothing)
        for count in np.unique(train).tolist()
    }
    return np.array([answers.get(count, overall) for count in asked.tolist()], np.float64)
