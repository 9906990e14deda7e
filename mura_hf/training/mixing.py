"""Mixing the views of a batch, drawn from the seed and the batch's place in the run alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .recipe import Recipe

SHARE = "share"
"""Key of a mixed batch: a scalar, the share that a view itself has in what is shown; the rest is its partner's."""

_PAIRED = ("labels", "body_parts", "index")


@dataclass(frozen=True)
class Mix:
    """How each view of a batch is mixed with its partner.

    Attributes:
        share: Of the view itself, in [0, 1].
        box: Top, bottom, left and right in pixels of the rectangle that shows the partner; None where both are seen
            everywhere.
    """

    share: float
    box: tuple[int, int, int, int] | None


def draw_mix(recipe: Recipe, size: tuple[int, int], place: Sequence[int]) -> Mix:
    """Draws how a batch is mixed.

    Args:
        recipe: With `mixup` or `cutmix` above 0, or both, of which one is then tossed for.
        size: Height and width of the views.
        place: Numbers that together tell the batch from every other of the run, such as those of its step and of its
            process. With the recipe's seed they fix the draw.
    """
    rng = np.random.default_rng([recipe.seed, *place, 2])
    toss, down, across = rng.random(3)
    cut = recipe.cutmix > 0 and (recipe.mixup == 0 or toss < 0.5)
    alpha = recipe.cutmix if cut else recipe.mixup
    share = float(rng.beta(alpha, alpha))
    if not cut:
        return Mix(share, None)
    edges: list[int] = []
    for side, middle in zip(size, (down, across), strict=True):
        centre, half = int(middle * side), int(side * np.sqrt(1 - share)) / 2
        edges += [max(0, int(centre - half)), min(side, int(centre + half))]
    top, bottom, left, right = edges
    hidden = (bottom - top) * (right - left) / (size[0] * size[1])  # what was cut off at the picture's edge shows
    return Mix(1 - hidden, (top, bottom, left, right))


def mix_batch(batch: dict[str, torch.Tensor], recipe: Recipe, place: Sequence[int]) -> dict[str, torch.Tensor]:
    """A batch of views as the recipe has them mixed: the first with the last, the second with the last but one, ...

    Sources: Zhang et al., "mixup: Beyond empirical risk minimization", arXiv 1710.09412, for the mean of two pictures;
    Yun et al., "CutMix", arXiv 1905.04899, for the rectangle. As in timm's `Mixup` by batch, one draw serves a batch.
    No global generator is asked, so that a run that is resumed mixes as one that was not interrupted.

    Args:
        batch: Of a loader: `pixel_values` `[B, C, H, W]` with what belongs to each.
        recipe: See `Recipe.mixup`.
        place: See `draw_mix`.

    Returns:
        The batch itself where nothing is mixed; else another with mixed `pixel_values`, and `SHARE`. Labels stay those
        of the views themselves; `partners` gives the others.
    """
    if not (recipe.mixup or recipe.cutmix):
        return batch
    views = batch["pixel_values"]
    others = views.flip(0)
    mix = draw_mix(recipe, (views.shape[-2], views.shape[-1]), place)
    if mix.box is None:
        mixed = others.lerp(views, mix.share)
    else:
        top, bottom, left, right = mix.box
        mixed = views.clone()
        mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return {**batch, "pixel_values": mixed, SHARE: torch.tensor(mix.share, device=views.device)}


def partners(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with what is known of each view's partner in the place of what is known of itself."""
    return {**batch, **{name: batch[name].flip(0) for name in _PAIRED}}
