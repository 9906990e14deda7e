"""Loss on the class activation map, for images with boxes of the findings."""

import torch
from torch.nn import functional

_INSIDE_WEIGHT = 4.0  # of positions inside a finding, of which there are few


def region_loss(scores: torch.Tensor, regions: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of each position of the map: does it lie inside a finding?

    Li et al., "Thoracic disease identification and localization with limited supervision", arXiv 1711.06373, supervise
    a grid of patches with boxes in this way.

    Args:
        scores: `[B, h, w]`, z_abnormal - z_normal at each position.
        regions: bool `[B, H, W]`, True inside a box. A position of the map is inside if any of its pixels is.
        known: bool `[B]`, False if the place of the finding is unknown; such images are skipped.

    Returns:
        Scalar in float32: mean over the positions, then over the known images; 0 with a gradient if there are none.
    """
    target = functional.adaptive_max_pool2d(regions.float()[:, None], scores.shape[1:])[:, 0]
    losses = functional.binary_cross_entropy_with_logits(scores.float(), target, reduction="none")
    losses = (losses * (1 + (_INSIDE_WEIGHT - 1) * target)).flatten(1).mean(1)
    weights = known.to(losses)
    return (losses * weights).sum() / weights.sum().clamp_min(1.0)
