"""Triplet loss on the hardest triplet of each anchor, its distances weighted by an exponential."""

import torch
from torch.nn import functional

from .pairs import hardest_distances, prepare_embeddings, reduce_losses

LARGEST_EXPONENT = 30.0


def triplet_focal_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    *,
    margin: float = 0.2,
    sigma: float = 1.0,
    squared: bool = False,
    normalize: bool = False,
    reduction: str = "sum",
) -> torch.Tensor:
    """max(0, exp(D*_ap / sigma) - exp(D*_an / sigma) + margin), summed over the anchors.

    D*_ap is the distance from the anchor to the farthest sample of its label, D*_an that to the nearest sample of
    another; anchors that lack either are left out. Source: Zhang et al., "Person re-identification with triplet focal
    loss", IEEE Access 6, 2018, with Euclidean distances, not squared, of embeddings that are not normalised.

    The exponential is exact up to an exponent of 30 (a distance of 30 sigma). Beyond, it goes on along its tangent,
    exp(30) (1 + x - 30), so that value and gradient, and the gradient's square in an optimizer, stay finite and far
    pairs are still pulled the right way. Embeddings that are not normalised may well start out there: choose sigma
    near their distances, or normalise.

    Args:
        embeddings: `[B, E]`.
        labels: int64 `[B]`.
        margin: How much larger than the positive's the negative's exponential has to be.
        sigma: Scale of the distances, above 0; the smaller, the more the hardest anchors outweigh the others.
        squared: Whether distances are squared.
        normalize: Whether embeddings are divided by their 2-norm first.
        reduction: "sum" over the anchors, "mean", or "mean_nonzero" over those whose loss is not 0.

    Returns:
        Scalar, float32 (float64 for float64 embeddings); 0 with a gradient in a batch without a triplet.

    Raises:
        ValueError: If sigma is not above 0, the shapes do not belong together or the reduction is unknown.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}: it must be above 0")
    values = prepare_embeddings(embeddings, labels, normalize)
    farthest, nearest, valid = hardest_distances(values, labels, squared)
    losses = functional.relu(_exponential(farthest / sigma) - _exponential(nearest / sigma) + margin)
    return reduce_losses(losses, valid, reduction)


def _exponential(values: torch.Tensor) -> torch.Tensor:
    """exp, and its tangent beyond `LARGEST_EXPONENT`."""
    return values.clamp_max(LARGEST_EXPONENT).exp() * (1 + functional.relu(values - LARGEST_EXPONENT))
