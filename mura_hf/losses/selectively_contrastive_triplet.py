"""Selectively contrastive loss: hard triplets only push the negative away, all others also pull the positive."""

import torch
from torch.nn import functional

from .pairs import pair_masks, prepare_embeddings, reduce_losses

POSITIVES = ("hardest", "easiest", "all")


def selectively_contrastive_triplet_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    *,
    negative_weight: float = 1.0,
    positives: str = "hardest",
    reduction: str = "mean",
) -> torch.Tensor:
    """Computes lambda S_an if S_an > S_ap, else -log(exp(S_ap) / (exp(S_ap) + exp(S_an))), over mined triplets.

    S is the cosine similarity, so normalization is part of the loss; there is no margin and no temperature. The
    negative of an anchor is the most similar sample with another label. If it is more similar than the positive, the
    triplet only pushes it away, with weight lambda = `negative_weight`, and does not move the positive.
    Source: Xuan et al., "Hard negative examples are hard, but useful", arXiv 2007.12749.

    The loss of a hard triplet with negative similarities is negative. `positives` is "hardest", the least similar
    sample with the anchor's label; "easiest", the most similar one; or "all", a triplet for each. Other arguments are
    those of `triplet_margin_loss`.
    """
    if positives not in POSITIVES:
        raise ValueError(f"positives is {positives!r}: it must be one of {', '.join(POSITIVES)}")
    values = prepare_embeddings(embeddings, labels, normalize=True)
    positive, negative = pair_masks(labels)
    with torch.autocast(values.device.type, enabled=False):
        similarities = values @ values.T
    # Outside the range of cosines instead of infinite, so that the loss of an invalid entry is finite.
    to_negative = similarities.masked_fill(~negative, -2.0).max(1, keepdim=True).values
    if positives == "all":
        to_positive, valid = similarities, positive & negative.any(1, keepdim=True)
    else:
        valid = (positive.any(1) & negative.any(1))[:, None]
        if positives == "hardest":
            to_positive = similarities.masked_fill(~positive, 2.0).min(1, keepdim=True).values
        else:
            to_positive = similarities.masked_fill(~positive, -2.0).max(1, keepdim=True).values
    losses = torch.where(
        to_negative > to_positive, negative_weight * to_negative, functional.softplus(to_negative - to_positive)
    )
    return reduce_losses(losses, valid, reduction)
