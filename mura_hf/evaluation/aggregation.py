"""From views to studies."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

POOLINGS = ("mean", "max", "noisy_or")


def aggregate_studies(
    study_ids: Sequence[Hashable] | np.ndarray, probabilities: Sequence[float] | np.ndarray, how: str = "mean"
) -> tuple[list[Any], np.ndarray]:
    """Pools the probabilities of views that belong to one study.

    Args:
        study_ids: `[n]`, the study of each view, in any order.
        probabilities: `[n]`, P(abnormal) of each view, in [0, 1].
        how: "mean", the MURA paper's rule; "max", the most suspicious view; "noisy_or", 1 - prod(1 - p), the chance
            that any view shows something if each spoke for itself. The latter two grow with the number of views,
            which alone tells a little about the label: set them beside `view_count_baseline`.

    Returns:
        The study ids in the order they are first seen, and their probabilities, float64 `[s]`.

    Raises:
        ValueError: If the lengths differ, `how` is unknown or noisy-or is given what is no probability.
    """
    values = np.asarray(probabilities, np.float64)
    if how not in POOLINGS:
        raise ValueError(f"how is {how!r}: it must be one of {', '.join(POOLINGS)}")
    if values.shape != (len(study_ids),):
        raise ValueError(f"{len(study_ids)} study ids but probabilities of shape {values.shape}")
    places = {study: place for place, study in enumerate(dict.fromkeys(study_ids))}
    index = np.fromiter((places[study] for study in study_ids), np.int64, len(study_ids))
    if how == "max":
        pooled = np.full(len(places), -np.inf)
        np.maximum.at(pooled, index, values)
    elif how == "noisy_or":
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("noisy_or needs probabilities in [0, 1]")
        with np.errstate(divide="ignore"):  # a view that is certain: log 0, and the study is certain
            pooled = -np.expm1(np.bincount(index, weights=np.log1p(-values), minlength=len(places)))
    else:
        sums = np.bincount(index, weights=values, minlength=len(places))
        pooled = sums / np.maximum(np.bincount(index, minlength=len(places)), 1)
    return list(places), pooled
