"""Heatmaps by any method, and the one that suits a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..models import Explained, MuraClassifier, MuraImageClassifierOutput
from .merging import find_map_sizes, merge_parts
from .occlusion import occlusion, window_grid
from .parts import captum_grad_cam, class_activation_map, head_gradient, layer_cam
from .smooth_gradcam import smooth_grad_cam

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
