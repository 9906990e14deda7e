"""From the nearest views to the nearest studies."""

from typing import Any

import numpy as np
import torch

_AHEAD = 4  # views that are looked at for each study that is wanted, at first


def nearest_studies(
    searcher: Any, codes: torch.Tensor, k: int, studies: np.ndarray, allowed: torch.Tensor | None = None
) -> list[tuple[float, int, int]]:
    """The k studies one of whose views comes nearest to one of those that are searched for.

    Args:
        searcher: An `ExactSearcher`, or one by FAISS.
        codes: float32 `[V, D]`, of the views of one study.
        k: How many studies.
        studies: int64 `[N]`, the study of each row.
        allowed: bool `[N]`, which rows may be found; all where None.

    Returns:
        Distance, row, and place in `codes`, by study, the nearest first.
    """
    want = min(_AHEAD * k, len(studies))
    while True:
        distances, rows = searcher.search(codes, want, allowed)
        views = np.repeat(np.arange(len(codes)), want).reshape(rows.shape)
        there = rows >= 0
        order = np.lexsort((rows[there], distances[there]))
        best: dict[int, tuple[float, int, int]] = {}
        for distance, row, view in zip(
            distances[there][order].tolist(), rows[there][order].tolist(), views[there][order].tolist(), strict=True
        ):
            best.setdefault(int(studies[row]), (distance, row, view))
        # What was not looked at lies farther from each view than the last that was found for it.
        edge = distances[:, -1].min() if want < len(studies) else np.inf
        sure = [found for found in best.values() if found[0] <= edge]
        if len(sure) >= k or not np.isfinite(edge):
            return sure[:k]
        want = min(4 * want, len(studies))
