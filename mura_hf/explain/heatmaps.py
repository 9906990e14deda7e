"""`explain`: heatmaps by any method, by default the cheapest that equals Grad-CAM; and `occlusion`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..models import Explained, MuraClassifier, MuraImageClassifierOutput
from .gradcam import (
    captum_grad_cam,
    class_activation_map,
    classify_explainably,
    enlarge,
    find_map_sizes,
    head_gradient,
    layer_cam,
    merge_parts,
    normalize,
    smooth_grad_cam,
)

AUTO = "auto"

_FEATURE_MAP_METHODS: dict[str, Callable[[Explained], torch.Tensor]] = {
    "class_activation_map": class_activation_map,
    "head_gradient": head_gradient,
    "grad_cam": captum_grad_cam,
    "layer_cam": layer_cam,
}

METHODS = (*_FEATURE_MAP_METHODS, "smooth_grad_cam", "occlusion")
"""Names of all methods, the cheapest first. All but the last two need only the feature maps of a prediction."""

_WINDOWS_PER_SIDE = 8


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """Model attention for a batch of images.

    Attributes:
        maps: float32 `[B, height, width]` in [0, 1], each divided by its maximum; zeros without positive evidence.
        method: One of `METHODS`.
        map_sizes: Height and width of each map before it was enlarged: of the finest feature map that it depends on,
            or the number of windows that were covered.
    """

    maps: torch.Tensor
    method: str
    map_sizes: list[tuple[int, int]]


def check_method(method: str) -> str:
    """Returns one of `METHODS`, or "auto", unchanged; raises `ValueError` for other names."""
    if method not in (AUTO, *METHODS):
        raise ValueError(f"unknown heatmap method {method!r}; known are {AUTO}, {', '.join(METHODS)}")
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
    """Explains z_abnormal - z_normal with any method.

    "auto" is the cheapest method that equals Grad-CAM for the model: "class_activation_map" if each of its networks
    ends in global average pooling and one linear layer, else "head_gradient". `grad_cam` describes how several maps
    are merged.

    Args:
        model: Any classifier in evaluation mode. Threads may share it.
        pixel_values: float `[B, C, H, W]`. Optional if `output` is given and the method needs no more.
        output: Output of `model.classify_views` with `explainable=True`, or the field `views` of such a `StudyOutput`.
            Saves the forward pass for the methods that need only feature maps.
        method: One of `METHODS`, or "auto".
        size: Height and width of the maps; those of `pixel_values` if None, or of the finest feature map without them.
        body_parts: int64 `[B]`, for models that need the part.

    Raises:
        CheckpointError: If the method does not support the model; "occlusion" supports any.
        ValueError: If there is no such method, or its inputs are missing.
    """
    check_method(method)
    if pixel_values is None:
        if output is None or method not in (AUTO, *_FEATURE_MAP_METHODS):
            raise ValueError(f"give pixel_values; only {', '.join(_FEATURE_MAP_METHODS)} work with output alone")
    else:
        height, width = pixel_values.shape[-2:]
        size = size or (height, width)
        if method == "occlusion":
            maps = occlusion(model, pixel_values, size=size, body_parts=body_parts)
            return Heatmaps(maps, method, [_window_grid(height, width)] * len(maps))
        if output is None:
            output = classify_explainably(model, pixel_values, body_parts)
    assert output is not None
    parts = model.explain(output)
    map_sizes = find_map_sizes(parts, len(output.logits))
    if method == "smooth_grad_cam":
        assert pixel_values is not None
        return Heatmaps(smooth_grad_cam(model, pixel_values, size=size, body_parts=body_parts), method, map_sizes)
    if method == AUTO:
        method = "head_gradient" if any(part.channel_weights is None for part in parts) else "class_activation_map"
    maps = merge_parts(parts, _FEATURE_MAP_METHODS[method], len(map_sizes), size or max(map_sizes))
    return Heatmaps(maps, method, map_sizes)


def occlusion(
    model: MuraClassifier,
    pixel_values: torch.Tensor,
    *,
    window: int | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    body_parts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Maps where covering an image lowers z_abnormal - z_normal. Works for any model, at hundreds of passes per image.

    Zeiler and Fergus, arXiv 1311.2901, section 4.2, with Captum's `Occlusion`. A square moves in steps of half its
    side and replaces what it covers by the mean of the image, channel by channel. The map is the mean decrease over
    the squares that cover a pixel, cut at 0.

    Args:
        model: Any classifier in evaluation mode.
        pixel_values: float `[B, C, H, W]`.
        window: Side of the square in pixels; an eighth of the image's shorter side if None.
        size: Height and width of the result; those of `pixel_values` if None.
        batch_size: Covered copies per pass through the model.
        body_parts: int64 `[B]`, for models that need the part.

    Returns:
        float32 `[B, height, width]` in [0, 1], each divided by its maximum; zeros if no square lowers the score.

    Raises:
        ValueError: If the window does not fit into the image, or `batch_size` is below 1.
    """
    from captum.attr import Occlusion

    height, width = pixel_values.shape[-2:]
    side = _window_side(height, width) if window is None else window
    if not 2 <= side <= min(height, width) or batch_size < 1:
        limits = f"the window must be 2 or more and fit into images of {height} x {width} px, and batch_size 1 or more"
        raise ValueError(f"window is {side} and batch_size {batch_size}: {limits}")

    def score(images: torch.Tensor, parts: torch.Tensor | None) -> torch.Tensor:
        given: dict[str, Any] = {} if parts is None else {"body_parts": parts}
        logits = model.classify_views(images, **given).logits
        return logits[:, 1] - logits[:, 0]

    channels, maps = pixel_values.shape[1], []
    for number, image in enumerate(pixel_values.split(1)):
        with torch.no_grad():
            decrease = Occlusion(score).attribute(
                image,
                sliding_window_shapes=(channels, side, side),
                strides=(channels, side // 2, side // 2),
                baselines=image.mean((2, 3), keepdim=True).expand_as(image),
                additional_forward_args=(None if body_parts is None else body_parts[number : number + 1],),
                perturbations_per_eval=batch_size,
            )
        maps.append(decrease[:, 0].float().clamp_min(0))
    return normalize(enlarge(torch.cat(maps), size or (height, width)))


def _window_side(height: int, width: int) -> int:
    return max(2, min(height, width) // _WINDOWS_PER_SIDE)


def _window_grid(height: int, width: int) -> tuple[int, int]:
    """Number of positions of the default window, down and across."""
    side = _window_side(height, width)
    down, across = (-(-(length - side) // (side // 2)) + 1 for length in (height, width))
    return down, across
