"""What the triplet losses share: masks, distances with a safe gradient at 0, hardest pairs, and reductions."""

from typing import Any

import torch
from torch.nn import functional

REDUCTIONS = ("sum", "mean", "mean_nonzero")


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

    The pairs are selected by squared distances from one matrix product, of centered embeddings for precision; pairs
    that are equal up to rounding may be swapped. Their distances are then computed from differences.

    Returns:
        Distance of the farthest positive, distance of the nearest negative, and whether the anchor has both (bool),
        `[B]` each. Distances of anchors without both are undefined.
    """
    positive, negative = pair_masks(labels)
    with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
        centered = embeddings - embeddings.mean(0)
        products = centered @ centered.T
        # Squared distances minus the anchor's own square, which is constant along a row.
        squares = torch.sub(products.diagonal(), products, alpha=2)
        farthest = squares.masked_fill(~positive, -torch.inf).argmax(1)
        nearest = squares.masked_fill(~negative, torch.inf).argmin(1)
    selected: Any = _SelectedDistances.apply(embeddings, torch.stack([farthest, nearest]))
    if squared:
        selected = selected.square()
    return selected[0], selected[1], positive.any(1) & negative.any(1)


class _SelectedDistances(torch.autograd.Function):
    """Distances of each row to selected others, `[K, B]` from indices `[K, B]`; the gradient at 0 is 0."""

    @staticmethod
    def forward(ctx: Any, embeddings: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        differences = embeddings.index_select(0, others.flatten()).view(*others.shape, -1).sub_(embeddings)
        distances = torch.linalg.vector_norm(differences, dim=2)
        ctx.save_for_backward(differences, others, distances)
        return distances

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        differences, others, distances = ctx.saved_tensors
        weights = torch.where(distances > 0, grad / distances, torch.zeros_like(grad))
        pulls = differences * weights[..., None]
        return pulls.sum(0).neg_().index_add_(0, others.flatten(), pulls.flatten(0, 1)), None


def reduce_losses(losses: torch.Tensor, valid: torch.Tensor, reduction: str) -> torch.Tensor:
    """Reduces the valid losses by "sum", "mean", or "mean_nonzero" (over those that are not 0).

    Raises:
        ValueError: If the reduction is unknown.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}: it must be one of {', '.join(REDUCTIONS)}")
    kept = torch.where(valid, losses, torch.zeros_like(losses))
    if reduction == "sum":
        return kept.sum()
    return kept.sum() / (kept != 0 if reduction == "mean_nonzero" else valid).sum().clamp_min(1)
