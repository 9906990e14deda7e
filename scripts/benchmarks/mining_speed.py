"""What batch-hard mining costs beside pytorch-metric-learning's."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from tqdm.auto import tqdm

from mura_hf.losses import batch_hard_triplet_loss


def measure_mining_cost(
    *, batch: int = 128, width: int = 2048, rounds: int = 200, progress: bool = True
) -> dict[str, float]:
    """Times the batch-hard loss, forward and backward, beside that of pytorch-metric-learning with the same distance,
    margin and reduction, alternated in one process.

    Args:
        batch: Embeddings.
        width: Of each.
        rounds: Of which the median is taken, after ten to warm up.
        progress: Whether to show a progress bar.

    Returns:
        `ratio` of ours over theirs, `milliseconds` and `their_milliseconds`, medians.
    """
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import SumReducer

    distance = LpDistance(normalize_embeddings=False)
    miner = BatchHardMiner(distance=distance)
    theirs = TripletMarginLoss(margin=0.2, distance=distance, reducer=SumReducer())
    losses: tuple[Callable[[Any, Any], Any], ...] = (
        lambda embeddings, labels: batch_hard_triplet_loss(embeddings, labels, margin=0.2),
        lambda embeddings, labels: theirs(embeddings, labels, miner(embeddings, labels)),
    )
    generator = torch.Generator().manual_seed(0)
    times = []
    for _ in tqdm(range(rounds + 10), desc="mining", disable=not progress):
        drawn = torch.randn(batch, width, generator=generator)
        labels, row = torch.randint(0, 2, (batch,), generator=generator), []
        for loss in losses:
            embeddings = drawn.clone().requires_grad_()
            start = time.perf_counter()
            loss(embeddings, labels).backward()
            row.append(time.perf_counter() - start)
        times.append(row)
    kept = times[10:]
    return {
        "ratio": round(statistics.median(ours / other for ours, other in kept), 2),
        "milliseconds": round(1000 * statistics.median(ours for ours, _ in kept), 1),
        "their_milliseconds": round(1000 * statistics.median(other for _, other in kept), 1),
    }
