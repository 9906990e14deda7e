"""Triplet loss over all triplets of a batch."""

import torch
from torch.nn import functional

from .pairs import pair_distances, pair_masks, prepare_embeddings, reduce_losses


def triplet_margin_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    *,
    margin: float = 0.2,
    squared: bool = True,
    normalize: bool = False,
    reduction: str = "mean",
) -> torch.Tensor:
    """Computes max(0, |a - p|^2 - |a - n|^2 + margin), averaged over all triplets of the batch.

    A triplet consists of an anchor a, another sample p with its label, and a sample n with a different label. Source:
    Schroff et al., "FaceNet", arXiv 1503.03832, equation 3, which normalizes embeddings and sums. Memory is O(B^3).

    Args:
        embeddings: `[B, E]`.
        labels: int64 `[B]`.
        margin: How much farther than the positive the negative has to be, in units of the (squared) distance.
        squared: Whether to square the Euclidean distances.
        normalize: Whether to divide embeddings by their 2-norm first.
        reduction: "mean" or "sum" over all mined triplets.

    Returns:
        Scalar, float32 (float64 for float64 embeddings); 0 with a gradient if the batch has no triplet.

    Raises:
        ValueError: If the shapes do not match or the reduction is unknown.
    """
    distances = pair_distances(prepare_embeddings(embeddings, labels, normalize), squared)
    positive, negative = pair_masks(labels)
    losses = functional.relu(distances[:, :, None] - distances[:, None, :] + margin)
    return reduce_losses(losses, positive[:, :, None] & negative[:, None, :], reduction)
