"""Triplet loss on the hardest triplet of each anchor."""

import torch
from torch.nn import functional

from .pairs import hardest_distances, prepare_embeddings, reduce_losses


def batch_hard_triplet_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    *,
    margin: float = 0.2,
    squared: bool = False,
    normalize: bool = False,
    reduction: str = "sum",
) -> torch.Tensor:
    """Computes max(0, D*_ap - D*_an + margin), summed over the anchors.

    D*_ap is the distance from the anchor to the farthest sample with its label, D*_an that to the nearest sample with
    another label. Anchors without one of them are skipped. By default, distances are Euclidean, not squared, and
    embeddings are not normalized. Source: Hermans et al., "In defense of the triplet loss for person
    re-identification", arXiv 1703.07737, equation 5.

    Args:
        embeddings: `[B, E]`.
        labels: int64 `[B]`.
        margin: How much farther than the positive the negative has to be, in units of the distance.
        squared: Whether to square distances.
        normalize: Whether to divide embeddings by their 2-norm first.
        reduction: "sum" over the anchors, "mean", or "mean_nonzero" over those whose loss is not 0.

    Returns:
        Scalar, float32 (float64 for float64 embeddings); 0 with a gradient if the batch has no triplet.

    Raises:
        ValueError: If the shapes do not match or the reduction is unknown.
    """
    values = prepare_embeddings(embeddings, labels, normalize)
    farthest, nearest, valid = hardest_distances(values, labels, squared)
    return reduce_losses(functional.relu(farthest - nearest + margin), valid, reduction)
