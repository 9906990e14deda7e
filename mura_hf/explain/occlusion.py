"""What a model's answer loses where the picture is covered."""

from typing import Any

import torch

from ..models import MuraClassifier
from .merging import enlarge, normalize

_WINDOWS_A_SIDE = 8


def occlusion(
    model: MuraClassifier,
    pixel_values: torch.Tensor,
    *,
    window: int | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    body_parts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Where covering a picture lowers z_abnormal - z_normal; for any model, since nothing is asked but answers.

    Zeiler and Fergus, arXiv 1311.2901, section 4.2, by Captum's `Occlusion`. A square slides by half its side, and
    what it covers takes the mean of the picture, channel by channel. The map is the mean loss over the squares that
    cover a place, cut at 0. It takes hundreds of answers to a picture.

    Args:
        model: Any model that classifies, in evaluation mode.
        pixel_values: float `[B, C, H, W]`.
        window: Side of the square in pixels; an eighth of the picture's shorter side where None.
        size: Height and width of the result; those of `pixel_values` where None.
        batch_size: Covered copies in one pass through the model.
        body_parts: int64 `[B]`, for models that need to be told the part.

    Returns:
        float32 `[B, height, width]` in [0, 1]: each picture's map divided by its maximum; all zeros where nothing
        that is covered lowers it.

    Raises:
        ValueError: If the window does not fit into the picture, or the batch is empty.
    """
    from captum.attr import Occlusion

    height, width = pixel_values.shape[-2:]
    side = window_side(height, width) if window is None else window
    if not 2 <= side <= min(height, width) or batch_size < 1:
        raise ValueError(
            f"window is {side} and batch_size {batch_size}: the window must be 2 or above and fit into pictures of "
            f"{height} x {width} px, the batch 1 or above"
        )

    def score(pictures: torch.Tensor, parts: torch.Tensor | None) -> torch.Tensor:
        given: dict[str, Any] = {} if parts is None else {"body_parts": parts}
        logits = model.classify_views(pictures, **given).logits
        return logits[:, 1] - logits[:, 0]

    channels, maps = pixel_values.shape[1], []
    for number, picture in enumerate(pixel_values.split(1)):
        with torch.no_grad():
            lost = Occlusion(score).attribute(
                picture,
                sliding_window_shapes=(channels, side, side),
                strides=(channels, side // 2, side // 2),
                baselines=picture.mean((2, 3), keepdim=True).expand_as(picture),
                additional_forward_args=(None if body_parts is None else body_parts[number : number + 1],),
                perturbations_per_eval=batch_size,
            )
        maps.append(lost[:, 0].float().clamp_min(0))
    return normalize(enlarge(torch.cat(maps), size or (height, width)))


def window_side(height: int, width: int) -> int:
    """Side of the square that covers pictures of a height and width, in pixels."""
    return max(2, min(height, width) // _WINDOWS_A_SIDE)


def window_grid(height: int, width: int) -> tuple[int, int]:
    """At how many places the square stands, down and across."""
    side = window_side(height, width)
    down, across = (-(-(length - side) // (side // 2)) + 1 for length in (height, width))
    return down, across
