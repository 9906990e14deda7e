"""Triplet loss on semi-hard triplets."""

import torch
from torch.nn import functional

from .pairs import pair_distances, pair_masks, prepare_embeddings, reduce_losses


def semi_hard_triplet_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    *,
    margin: float = 0.2,
    squared: bool = True,
    normalize: bool = False,
    reduction: str = "mean",
) -> torch.Tensor:
    """Computes max(0, |a - p|^2 - |a - n|^2 + margin) over one semi-hard triplet for each anchor a and positive p.

    n is the nearest negative that is strictly farther from the anchor than the positive, by at most the margin
    (0 < |a - n|^2 - |a - p|^2 <= margin). Pairs without such a negative are skipped, as in
    `TripletMarginMiner(type_of_triplets="semihard")` of pytorch-metric-learning. That miner keeps every negative in
    the band; this loss keeps the nearest. sentence-transformers and TensorFlow use the farthest negative for such
    pairs, whose triplet is hard, and count pairs beyond the margin in their mean.

    Arguments are those of `triplet_margin_loss`; `margin` is the width of the band. Source: Schroff et al., "FaceNet",
    arXiv 1503.03832, equation 4 and the text around it, with normalized embeddings.
    """
    distances = pair_distances(prepare_embeddings(embeddings, labels, normalize), squared)
    positive, negative = pair_masks(labels)
    # Negatives sorted by distance, then everything else (at least the anchor itself) at infinity.
    ordered = distances.masked_fill(~negative, torch.inf).sort(dim=1).values
    place = torch.searchsorted(ordered.detach(), distances.detach(), right=True).clamp_max(len(labels) - 1)
    gaps = ordered.gather(1, place) - distances
    return reduce_losses(functional.relu(margin - gaps), positive & (gaps > 0) & (gaps <= margin), reduction)
