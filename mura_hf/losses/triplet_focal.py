"""Triplet loss on the hardest triplet of each anchor, with exponentially weighted distances."""

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
    """Computes max(0, exp(D*_ap / sigma) - exp(D*_an / sigma) + margin), summed over the anchors.

    D*_ap is the distance from the anchor to the farthest sample with its label, D*_an that to the nearest sample with
    another label. Anchors without one of them are skipped. By default, distances are Euclidean, not squared, and
    embeddings are not normalized. Source: Zhang et al., "Person re-identification with triplet focal loss", IEEE
    Access 6, 2018.

    The exponential is exact up to an exponent of 30 (a distance of 30 sigma). Beyond, its tangent exp(30) (1 + x - 30)
    is used, so that values, gradients and squared gradients stay finite and distant pairs are still pulled in the
    right direction. Embeddings that are not normalized may start in this range: choose sigma close to their distances,
    or normalize them.

    `sigma` is the scale of the distances, above 0; smaller values give the hardest anchors more weight. `margin` is
    added to the exponentials. Other arguments are those of `triplet_margin_loss`.
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
