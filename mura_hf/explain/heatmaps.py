"""Heatmaps of model attention: class activation maps, their merging to whole images, and `explain` for any method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..models import ExplainedMap, MuraClassifier, MuraImageClassifierOutput
from ..models.class_activation_mura import boxes_to_pixels, gradient_map

# The first three functions take a feature map of a prediction from `model.explain`, and return float32 `[n, h, w]`,
# without negative values.


def captum_grad_cam(explained: ExplainedMap) -> torch.Tensor:
    """Grad-CAM with Captum's `LayerGradCam`. It hooks a layer of this call only, so threads may share a model."""
    from captum.attr import LayerGradCam

    probe = nn.Identity()
    # A tensor that was made in inference mode cannot be differentiated, but a copy can.
    with torch.inference_mode(False), torch.enable_grad():
        maps = LayerGradCam(lambda values: explained.score(probe(values)), probe).attribute(
            explained.feature_map.detach().clone(), relu_attributions=True
        )
    return maps.detach().float()[:, 0]


def fast_grad_cam(explained: ExplainedMap) -> torch.Tensor:
    """Equals `captum_grad_cam` up to rounding, in a fraction of the time.

    If the network ends in global average pooling and one linear layer, the channels are weighted by the weights of
    that layer, and no gradient is computed (Zhou et al., arXiv 1512.04150, equation 2).
    """
    if explained.channel_weights is None:
        return gradient_map(explained.score, explained.feature_map).float().clamp_min(0)
    feature_map = explained.feature_map.detach().float()
    return torch.einsum("d,ndhw->nhw", explained.channel_weights.float(), feature_map).clamp_min(0)


def layer_cam(explained: ExplainedMap) -> torch.Tensor:
    """Every position of every channel weighted by its own positive gradient.

    Jiang et al., "LayerCAM: exploring hierarchical class activation maps for localization", IEEE Transactions on Image
    Processing 30 (2021), 5875-5888, equations 6 and 7. Unlike in Grad-CAM, evidence for normal is ignored instead of
    subtracted.
    """
    with torch.inference_mode(False), torch.enable_grad():
        values = explained.feature_map.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(explained.score(values).sum(), values)
    return (gradient.clamp_min(0) * values.detach()).sum(1).float().clamp_min(0)


def merge_maps(
    explained_maps: Sequence[ExplainedMap],
    draw: Callable[[ExplainedMap], torch.Tensor],
    n: int,
    size: tuple[int, int],
) -> torch.Tensor:
    """Weighted mean of what `draw` makes of each feature map, enlarged to its place and divided by its maximum.

    Returns:
        float32 `[n, *size]` in [0, 1], one per image, each divided by its maximum.
    """
    maps = torch.zeros(n, *size, device=explained_maps[0].feature_map.device)
    for one in explained_maps:
        rows = torch.arange(n, device=maps.device) if one.rows is None else one.rows
        maps.index_add_(0, rows, _place(draw(one), one.boxes, size), alpha=one.weight)
    return normalize(maps)


def _place(maps: torch.Tensor, boxes: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
    """Enlarges maps `[n, h, w]` to the whole image, or to their boxes in it, and normalizes them: `[n, *size]`."""
    if boxes is None:
        return normalize(enlarge(maps, size))
    placed = maps.new_zeros(len(maps), *size)
    for plane, small, box in zip(placed, maps, boxes_to_pixels(boxes, *size).tolist(), strict=True):
        left, top, right, bottom = box
        plane[top:bottom, left:right] = enlarge(small[None], (bottom - top, right - left))[0]
    return normalize(placed)


def find_map_sizes(explained_maps: Sequence[ExplainedMap], n: int) -> list[tuple[int, int]]:
    """Height and width of the finest feature map that each of the n images depends on."""
    sizes = [(0, 0)] * n
    for one in explained_maps:
        height, width = one.feature_map.shape[-2:]
        for row in range(n) if one.rows is None else one.rows.tolist():
            sizes[row] = max(sizes[row], (height, width))
    return sizes


def normalize(maps: torch.Tensor) -> torch.Tensor:
    """Maps `[n, h, w]` divided by their maxima; maps of zeros stay zeros."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes maps `[n, h, w]`. Negative values of the interpolation become 0.

    Bicubic, so that the peak may lie between the coarse positions. A bilinear map peaks at one of their centers.
    """
    return functional.interpolate(maps[:, None], size, mode="bicubic")[:, 0].clamp_min(0)


AUTO = "auto"

_FEATURE_MAP_METHODS: dict[str, Callable[[ExplainedMap], torch.Tensor]] = {
    AUTO: fast_grad_cam,
    "grad_cam": captum_grad_cam,
    "layer_cam": layer_cam,
}

METHODS = ("grad_cam", "layer_cam", "smooth_grad_cam", "occlusion")
"""Names of all methods, the cheapest first. All but the last two need only the feature maps of a prediction."""

_FORMER_NAMES = ("class_activation_map", "head_gradient")  # of "auto", with and without the closed form

_WINDOWS_PER_SIDE = 8
_BATCH_SIZE = 16  # copies of an image per pass through the model


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
    """Returns "auto" or one of `METHODS` unchanged, and "auto" for its former names.

    Raises:
        ValueError: If there is no such method.
    """
    if method in _FORMER_NAMES:
        return AUTO
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

    "auto" gives the same maps as "grad_cam" without Captum, and faster. `grad_cam` describes how several maps are
    merged.

    Args:
        model: Any classifier in evaluation mode. Threads may share it.
        pixel_values: float `[B, C, H, W]`. Optional if `output` is given and the method needs no more.
        output: Output of `model.classify_views` with `explainable=True`, or the field `views` of such a `StudyOutput`.
            Saves the forward pass for the methods that need only feature maps.
        method: One of `METHODS`, or "auto".
        size: Height and width of the maps; those of `pixel_values` if None, or of the finest feature map without them.
        body_parts: int64 `[B]`, for models that need the part.

    Raises:
        CheckpointError: If the network has no spatial layer that the prediction depends on; "occlusion" needs none.
        ValueError: If there is no such method, or its inputs are missing.
    """
    method = check_method(method)
    if pixel_values is None:
        if output is None or method not in _FEATURE_MAP_METHODS:
            raise ValueError(f"give pixel_values; only {', '.join(_FEATURE_MAP_METHODS)} work with output alone")
    else:
        height, width = pixel_values.shape[-2:]
        size = size or (height, width)
        if method == "occlusion":
            maps = occlusion(model, pixel_values, size=size, body_parts=body_parts)
            return Heatmaps(maps, method, [_window_grid(height, width)] * len(maps))
        if output is None:
            given: dict[str, Any] = {} if body_parts is None else {"body_parts": body_parts}
            with torch.no_grad():
                output = model.classify_views(pixel_values, explainable=True, **given)
    assert output is not None
    explained_maps = model.explain(output)
    map_sizes = find_map_sizes(explained_maps, len(output.logits))
    if method == "smooth_grad_cam":
        assert pixel_values is not None
        return Heatmaps(smooth_grad_cam(model, pixel_values, size=size, body_parts=body_parts), method, map_sizes)
    maps = merge_maps(explained_maps, _FEATURE_MAP_METHODS[method], len(map_sizes), size or max(map_sizes))
    return Heatmaps(maps, "grad_cam" if method == AUTO else method, map_sizes)


def grad_cam(
    model: MuraClassifier,
    pixel_values: torch.Tensor | None = None,
    *,
    output: MuraImageClassifierOutput | None = None,
    size: tuple[int, int] | None = None,
    body_parts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Grad-CAM of z_abnormal - z_normal at the input of the last pooling, with Captum's `LayerGradCam`.

    Selvaraju et al., arXiv 1610.02391, equations 1 and 2. For two classes, the gradient of the difference of the
    logits is parallel to that of the probability. Only the head is differentiated, and threads may share a model.

    If a prediction depends on several feature maps, each map is divided by its maximum, and the heatmap is their
    weighted mean: the branches of FuseNet with equal weights, the local one at the place of its crop; the members of
    an ensemble with their weights.

    Args:
        model: Any classifier in evaluation mode.
        pixel_values: float `[B, C, H, W]`. Optional if `output` is given.
        output: Output of `model.classify_views`, or the field `views` of a `StudyOutput`, which saves the forward
            pass. Transformers need `explainable=True` there.
        size: Height and width of the result; those of `pixel_values` if None, or of the feature map without them.
        body_parts: int64 `[B]` with `pixel_values`, for models that need the part.

    Returns:
        float32 `[B, height, width]` in [0, 1]: the map of each image divided by its maximum. A map without positive
        evidence is all zeros.

    Raises:
        CheckpointError: If the network has no spatial layer that the prediction depends on.
        ValueError: If neither `pixel_values` nor `output` is given.
    """
    return explain(model, pixel_values, output=output, method="grad_cam", size=size, body_parts=body_parts).maps


def smooth_grad_cam(
    model: MuraClassifier,
    pixel_values: torch.Tensor,
    *,
    n_samples: int = 50,
    noise: float = 0.15,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    body_parts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of `grad_cam` over noisy copies of each image, divided by its maximum.

    Smilkov et al., "SmoothGrad", arXiv 1706.03825: the mean over copies with Gaussian noise, whose standard deviation
    is a share of the image's range (max - min). Omeiza et al., "Smooth Grad-CAM++", arXiv 1908.01224, smooth the
    derivatives inside Grad-CAM++; this function averages normalized maps of plain Grad-CAM.

    Args:
        model: As for `grad_cam`.
        pixel_values: float `[B, C, H, W]`.
        n_samples: Noisy copies of each image.
        noise: Standard deviation as a share of the image's range over all channels; with 0, equals `grad_cam`.
        seed: Seed of the noise, which is equal for all images; global generators are not changed.
        size: Height and width of the result; those of `pixel_values` if None.
        body_parts: int64 `[B]`, for models that need the part.

    Returns:
        float32 `[B, height, width]` in [0, 1].

    Raises:
        CheckpointError: As `grad_cam`.
        ValueError: If a number is out of range, or `pixel_values` is not a batch of images.
    """
    if n_samples < 1 or not noise >= 0:
        raise ValueError(f"n_samples is {n_samples}, noise {noise}: they must be 1 or more, and 0 or more")
    if pixel_values.ndim != 4 or not len(pixel_values):
        raise ValueError(f"pixel_values must be [B, C, H, W] with at least one image, not {list(pixel_values.shape)}")
    if noise == 0:
        return grad_cam(model, pixel_values, size=size, body_parts=body_parts)
    maps = []
    for number, image in enumerate(pixel_values):
        generator = torch.Generator().manual_seed(seed)
        deviation = noise * (image.amax() - image.amin())
        total = torch.zeros((), device=image.device)
        for first in range(0, n_samples, _BATCH_SIZE):
            copies = min(_BATCH_SIZE, n_samples - first)
            # Drawn one by one, so that the noise does not depend on the batch size.
            drawn = torch.stack([torch.randn(image.shape, generator=generator) for _ in range(copies)])
            noisy = image + deviation * drawn.to(image)
            parts = None if body_parts is None else body_parts[number].expand(copies)
            total = total + grad_cam(model, noisy, size=size, body_parts=parts).sum(0)
        maps.append(total / n_samples)
    return normalize(torch.stack(maps))


def occlusion(
    model: MuraClassifier,
    pixel_values: torch.Tensor,
    *,
    size: tuple[int, int] | None = None,
    body_parts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Maps where covering an image lowers z_abnormal - z_normal. Works for any model, at hundreds of passes per image.

    Zeiler and Fergus, arXiv 1311.2901, section 4.2, with Captum's `Occlusion`. A square, whose side is an eighth
    of the image's shorter side, moves in steps of half its side and replaces what it covers by the mean of the image,
    channel by channel. The map is the mean decrease over the squares that cover a pixel, cut at 0.

    Args:
        model: Any classifier in evaluation mode.
        pixel_values: float `[B, C, H, W]`.
        size: Height and width of the result; those of `pixel_values` if None.
        body_parts: int64 `[B]`, for models that need the part.

    Returns:
        float32 `[B, height, width]` in [0, 1], each divided by its maximum; zeros if no square lowers the score.
    """
    from captum.attr import Occlusion

    height, width = pixel_values.shape[-2:]
    side = _window_side(height, width)

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
                perturbations_per_eval=_BATCH_SIZE,
            )
        maps.append(decrease[:, 0].float().clamp_min(0))
    return normalize(enlarge(torch.cat(maps), size or (height, width)))


def _window_side(height: int, width: int) -> int:
    return max(2, min(height, width) // _WINDOWS_PER_SIDE)


def _window_grid(height: int, width: int) -> tuple[int, int]:
    """Number of positions of the window of `occlusion`, down and across."""
    side = _window_side(height, width)
    down, across = (-(-(length - side) // (side // 2)) + 1 for length in (height, width))
    return down, across
