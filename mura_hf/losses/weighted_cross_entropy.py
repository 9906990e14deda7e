"""Class-weighted cross entropy of the MURA paper."""

import torch
from torch.nn import functional


def class_weights(labels: torch.Tensor) -> torch.Tensor:
    """Computes the weights of normal and abnormal, float32 `[2]`: each is the fraction of the *other* class.

    Source: Rajpurkar et al., arXiv 1712.06957, section 3.1: w_1 = |N| / (|A| + |N|), w_0 = |A| / (|A| + |N|).

    Args:
        labels: int64 `[n]` of the training images, 0 normal and 1 abnormal.

    Raises:
        ValueError: If a class is missing.
    """
    abnormal = labels.float().mean()
    if not 0 < float(abnormal) < 1:
        raise ValueError("the training labels hold one class only; class weights need both normal and abnormal images")
    return torch.stack([abnormal, 1 - abnormal])


def weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None, *, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Computes -w_1 y log P(abnormal) - w_0 (1 - y) log P(normal), averaged over the images.

    The sum is divided by the number of images, as in the paper; the weighted loss of torch divides by the sum of the
    weights.

    Args:
        logits: `[B, 2]`.
        labels: int64 `[B]`.
        weights: `[2]` for normal and abnormal; 1 and 1 if None.
        label_smoothing: Fraction of each label that is spread over both classes, in [0, 1).

    Returns:
        Scalar in float32, whatever the type of the logits.
    """
    losses = functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
    if weights is not None:
        losses = losses * weights.to(losses)[labels]
    return losses.mean()
