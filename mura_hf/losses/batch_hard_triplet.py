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
    re-identification", arXiv 1703.07737, equation 5. Arguments are those of `triplet_margin_loss`.
    """
    values = prepare_embeddings(embeddings, labels, normalize)
    farthest, nearest, valid = hardest_distances(values, labels, squared)
    return reduce_losses(functional.relu(farthest - nearest + margin), valid, reduction)
