"""From views to studies."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np


def aggregate_studies(
    study_ids: Sequence[Hashable] | np.ndarray, probabilities: Sequence[float] | np.ndarray, how: str = "mean"
) -> tuple[list[Any], np.ndarray]:
    """Pools the probabilities of views that belong to one study.

    Args:
        study_ids: `[n]`, the study of each view, in any order.
        probabilities: `[n]`, P(abnormal) of each view, in [0, 1].
        how: "mean", the MURA paper's rule.

    Returns:
        The study ids in the order they are first seen, and their probabilities, float64 `[s]`.

    Raises:
        ValueError: If the lengths differ or `how` is unknown.
    """
    values = np.asarray(probabilities, np.float64)
    if how != "mean":
        raise ValueError(f"how is {how!r}: it must be 'mean'")
    if values.shape != (len(study_ids),):
        raise ValueError(f"{len(study_ids)} study ids but probabilities of shape {values.shape}")
    places = {study: place for place, study in enumerate(dict.fromkeys(study_ids))}
    index = np.fromiter((places[study] for study in study_ids), np.int64, len(study_ids))
    sums = np.bincount(index, weights=values, minlength=len(places))
    return list(places), sums / np.maximum(np.bincount(index, minlength=len(places)), 1)
