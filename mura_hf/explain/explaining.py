"""What a model's answer loses where the picture is covered.

Heatmaps by any method, and the one that suits a model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..models import Explained, MuraClassifier, MuraImageClassifierOutput
from .gradcam import (
    captum_grad_cam,
    class_activation_map,
    enlarge,
    find_map_sizes,
    head_gradient,
    layer_cam,
    merge_parts,
    normalize,
    smooth_grad_cam,
)

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


AUTO = "auto"

OF_ANSWER: dict[str, Callable[[Explained], torch.Tensor]] = {
    "class_activation_map": class_activation_map,
    "head_gradient": head_gradient,
    "grad_cam": captum_grad_cam,
    "layer_cam": layer_cam,
}
"""Methods that need no more than an answer's feature maps."""

METHODS = (*OF_ANSWER, "smooth_grad_cam", "occlusion")
"""Names of all methods, the cheapest first; the last two ask the model again."""


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """Where a model looked.

    Attributes:
        maps: float32 `[B, height, width]` in [0, 1]: each picture's map divided by its maximum. A map without any
            positive evidence is all zeros.
        method: Name of the method, one of `METHODS`.
        map_sizes: Height and width that each map really has, before it was enlarged: of the finest feature map behind
            it, or the number of places that were covered.
    """

    maps: torch.Tensor
    method: str
    map_sizes: list[tuple[int, int]]


def check_method(method: str) -> str:
    """The name of a method, or "auto", as it was given.

    Raises:
        ValueError: If there is no such method.
    """
    if method not in (AUTO, *METHODS):
        raise ValueError(f"unknown heatmap method {method!r}; there are {AUTO}, {', '.join(METHODS)}")
    return method


def explain(
    model: MuraClassifier,
    pixel_values: torch.Tensor | None = None,
    *,
    output: MuraImageClassifierOutput | None = None,
    method: str = AUTO,
    size: tuple[int, int] | None = None,
    body_parts: torch.Tensor | None = None,
) -> Heatmaps:
    """Where a model looked for z_abnormal - z_normal, by any method.

    "auto" is the cheapest that is exactly Grad-CAM for the model at hand: in closed form where each of its networks
    ends in a mean over places and one linear layer, so that one forward pass gives answer, code and heatmap; else by
    one gradient through what follows the feature maps. How several maps become one is told at `grad_cam`.

    Args:
        model: Any model that classifies, in evaluation mode. Threads may share it.
        pixel_values: float `[B, C, H, W]`. May be left out where an output is given and the method needs no more.
        output: Of `model.classify_views` with `explainable`, or the field `views` of such a `StudyOutput`; saves the
            forward pass for the methods of `OF_ANSWER`.
        method: One of `METHODS`, or "auto".
        size: Height and width of the maps; those of `pixel_values` where None, or of the finest feature map without
            them.
        body_parts: int64 `[B]`, for models that need to be told the part.

    Raises:
        CheckpointError: If the model has nothing that the method could read; "occlusion" works for any.
        ValueError: If there is no such method, or the inputs that it needs are not given.
    """
    check_method(method)
    if pixel_values is None and (output is None or method not in (AUTO, *OF_ANSWER)):
        raise ValueError(f"give pixel_values; without them, {', '.join(OF_ANSWER)} can do with output")
    if pixel_values is not None:
        size = size or (pixel_values.shape[-2], pixel_values.shape[-1])
    if method == "occlusion":
        assert pixel_values is not None
        maps = occlusion(model, pixel_values, size=size, body_parts=body_parts)
        return Heatmaps(maps, method, [window_grid(pixel_values.shape[-2], pixel_values.shape[-1])] * len(maps))
    if output is None:
        assert pixel_values is not None
        output = answer(model, pixel_values, body_parts)
    parts = model.explain(output)
    sizes = find_map_sizes(parts, len(output.logits))
    if method == "smooth_grad_cam":
        assert pixel_values is not None
        return Heatmaps(smooth_grad_cam(model, pixel_values, size=size, body_parts=body_parts), method, sizes)
    if method == AUTO:
        method = "head_gradient" if any(part.channel_weights is None for part in parts) else "class_activation_map"
    return Heatmaps(merge_parts(parts, OF_ANSWER[method], len(sizes), size or max(sizes)), method, sizes)


def answer(
    model: MuraClassifier, pixel_values: torch.Tensor, body_parts: torch.Tensor | None = None
) -> MuraImageClassifierOutput:
    """An output that can be explained, of views `[B, C, H, W]`."""
    given: dict[str, Any] = {} if body_parts is None else {"body_parts": body_parts}
    with torch.no_grad():
        return model.classify_views(pixel_values, explainable=True, **given)
