"""A loss on the class activation map, where the findings' boxes are known."""

import torch
from torch.nn import functional


def region_loss(
    scores: torch.Tensor, regions: torch.Tensor, known: torch.Tensor, *, inside_weight: float = 4.0
) -> torch.Tensor:
    """Asks each place of the map to say whether it lies in a finding: binary cross entropy, places inside weighted up.

    The idea of supervising the class activation map with boxes: Li et al., "Thoracic disease identification and
    localization with limited supervision", arXiv 1711.06373, which uses it on a grid of patches.

    Args:
        scores: `[B, h, w]`, z_abnormal - z_normal at each place.
        regions: bool `[B, H, W]`, True inside a box. A place of the map counts as inside if any pixel under it does.
        known: bool `[B]`, False where the finding's place is not known; such pictures are left out.
        inside_weight: Weight of the places inside, of which there are few.

    Returns:
        Scalar in float32: mean over the places, then over the known pictures; 0 with a gradient where none is known.
    """
    target = functional.adaptive_max_pool2d(regions.float()[:, None], scores.shape[1:])[:, 0]
    losses = functional.binary_cross_entropy_with_logits(scores.float(), target, reduction="none")
    losses = (losses * (1 + (inside_weight - 1) * target)).flatten(1).mean(1)
    weights = known.to(losses)
    return (losses * weights).sum() / weights.sum().clamp_min(1.0)
