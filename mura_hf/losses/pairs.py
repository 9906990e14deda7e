"""What the triplet losses share: masks, distances with a safe gradient at 0, hardest pairs, and reductions."""

import torch
from torch.nn import functional

REDUCTIONS = ("sum", "mean")


def prepare_embeddings(embeddings: torch.Tensor, labels: torch.Tensor, normalize: bool = False) -> torch.Tensor:
    """Returns embeddings in float32 (float64 stays), divided by their 2-norm if `normalize`.

    Raises:
        ValueError: If the shapes are not `[B, E]` and `[B]`, or B is 0.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1] or not len(labels):
        raise ValueError(
            f"embeddings have shape {list(embeddings.shape)} and labels {list(labels.shape)}; they must be [B, E] "
            "and [B], with at least one sample"
        )
    values = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    return functional.normalize(values, dim=1) if normalize else values


def pair_masks(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns which pairs of an anchor and another sample are positive and which negative, bool `[B, B]` each."""
    same = labels[:, None] == labels[None, :]
    return same.logical_xor(torch.eye(len(labels), dtype=torch.bool, device=labels.device)), ~same


def pair_distances(embeddings: torch.Tensor, squared: bool = False) -> torch.Tensor:
    """Returns the (squared) Euclidean distances of all pairs `[B, B]`; the gradient at distance 0 is 0.

    They are computed from differences, because products are imprecise for close pairs.
    """
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.square() if squared else distances


def hardest_distances(
    embeddings: torch.Tensor, labels: torch.Tensor, squared: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Finds the farthest positive and the nearest negative of each anchor.

    Returns:
        Distance of the farthest positive, distance of the nearest negative, and whether the anchor has both (bool),
        `[B]` each. Distances of anchors without both are infinite.
    """
    distances = pair_distances(embeddings, squared)
    positive, negative = pair_masks(labels)
    farthest = distances.masked_fill(~positive, -torch.inf).max(1).values
    nearest = distances.masked_fill(~negative, torch.inf).min(1).values
    return farthest, nearest, positive.any(1) & negative.any(1)


def reduce_losses(losses: torch.Tensor, valid: torch.Tensor, reduction: str) -> torch.Tensor:
    """Reduces the valid losses by "sum" or "mean".

    Raises:
        ValueError: If the reduction is unknown.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}: it must be one of {', '.join(REDUCTIONS)}")
    kept = torch.where(valid, losses, torch.zeros_like(losses))
    return kept.sum() if reduction == "sum" else kept.sum() / valid.sum().clamp_min(1)
