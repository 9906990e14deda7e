"""Averages of weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file


def is_among_best(top: Mapping[int, float], score: float, most: int) -> bool:
    """Whether a new epoch belongs to the `most` best; of two alike the earlier does.

    Args:
        top: Epoch -> score, of the best so far.
        score: Of the new one.
        most: How many are kept.
    """
    return len(top) < most or score > min(top.values())


def with_epoch(top: Mapping[int, float], epoch: int, score: float, most: int) -> dict[int, float]:
    """The best so far and one more, without the worst where they are too many."""
    found = {**top, epoch: score}
    if len(found) > most:
        del found[min(found, key=lambda one: (found[one], -one))]
    return found


def average_weights(files: Mapping[int, Path], scores: Mapping[int, float]) -> dict[str, torch.Tensor]:
    """The mean of the best epochs' weights, statistics of batch norms too; whole numbers are those of the best epoch.

    Izmailov et al., "Averaging weights leads to wider optima and better generalization", arXiv 1803.05407, average
    along the way; here the epochs are chosen by dev, as in a greedy soup of one run (Wortsman et al., arXiv
    2203.05482, with every candidate taken).

    Args:
        files: Epoch -> safetensors of its weights.
        scores: Epoch -> its score.
    """
    best = max(scores, key=lambda one: (scores[one], -one))
    mean = load_file(files[best])
    summed = {name: value.double() for name, value in mean.items() if value.is_floating_point()}
    for epoch in scores:
        if epoch != best:
            for name, value in load_file(files[epoch]).items():
                if name in summed:
                    summed[name] += value
    return mean | {name: (value / len(scores)).to(mean[name].dtype) for name, value in summed.items()}
