"""Maps of one feature map that an answer rests on.

From the maps of an answer's parts to heatmaps of whole pictures.
Grad-CAM through Captum.
Grad-CAM averaged over noisy copies of a picture.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import CheckpointError
from ..models import Explained, MuraClassifier, MuraForImageClassification, MuraImageClassifierOutput
from ..models.class_activation_mura import find_edges, gradient_map


def class_activation_map(part: Explained) -> torch.Tensor:
    """In closed form, without a gradient: the channels weighted as the linear layer behind the mean weighs them.

    Zhou et al., "Learning deep features for discriminative localization", arXiv 1512.04150, equation 2, of the
    difference of the two classes' weights, cut at 0. Where a network ends in a mean over places and one linear layer,
    this is Grad-CAM at the tensor that feeds the mean.

    Args:
        part: Of `model.explain`.

    Returns:
        float32 `[n, h, w]`, not negative.

    Raises:
        CheckpointError: If the network does not end so.
    """
    if part.channel_weights is None:
        raise CheckpointError(
            "this model does not end in a mean over places and one linear layer, so its class activation map has no "
            "closed form; the method head_gradient gives the same map where it has one, and Grad-CAM elsewhere"
        )
    return torch.einsum("d,ndhw->nhw", part.channel_weights.float(), part.feature_map.detach().float()).clamp_min(0)


def head_gradient(part: Explained) -> torch.Tensor:
    """Grad-CAM by one gradient through what follows the feature map, without Captum.

    Selvaraju et al., arXiv 1610.02391, equations 1 and 2; equal to `captum_grad_cam`, which keeps it honest.

    Args:
        part: Of `model.explain`.

    Returns:
        float32 `[n, h, w]`, not negative.
    """
    return gradient_map(part.score, part.feature_map).float().clamp_min(0)


def layer_cam(part: Explained) -> torch.Tensor:
    """Every place of every channel weighted by its own gradient, where that is positive.

    Jiang et al., "LayerCAM: exploring hierarchical class activation maps for localization", IEEE Transactions on Image
    Processing 30 (2021), 5875-5888, equations 6 and 7. Unlike Grad-CAM, channels that speak for normal are left out
    instead of being taken off.

    Args:
        part: Of `model.explain`.

    Returns:
        float32 `[n, h, w]`, not negative.
    """
    with torch.inference_mode(False), torch.enable_grad():
        values = part.feature_map.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(part.score(values).sum(), values)
    return (gradient.clamp_min(0) * values.detach()).sum(1).float().clamp_min(0)


def captum_grad_cam(part: Explained) -> torch.Tensor:
    """Grad-CAM by Captum's `LayerGradCam`. The layer that it hooks belongs to this call, so threads may share a model.

    Args:
        part: Of `model.explain`.

    Returns:
        float32 `[n, h, w]`, not negative.
    """
    from captum.attr import LayerGradCam

    probe = nn.Identity()
    # A tensor made in inference mode cannot be differentiated, its copy can.
    with torch.inference_mode(False), torch.enable_grad():
        maps = LayerGradCam(lambda values: part.score(probe(values)), probe).attribute(
            part.feature_map.detach().clone(), relu_attributions=True
        )
    return maps.detach().float()[:, 0]


def merge_parts(
    parts: Sequence[Explained], draw: Callable[[Explained], torch.Tensor], n: int, size: tuple[int, int]
) -> torch.Tensor:
    """The weighted mean of the parts' maps, each enlarged to where it belongs and divided by its maximum.

    Args:
        parts: Of `model.explain`.
        draw: From a part to its map `[n, h, w]`, not negative.
        n: Pictures.
        size: Height and width of the result.

    Returns:
        float32 `[n, height, width]` in [0, 1]: each divided by its maximum.
    """
    maps = torch.zeros(n, *size, device=parts[0].feature_map.device)
    for part in parts:
        rows = torch.arange(n, device=maps.device) if part.rows is None else part.rows
        maps.index_add_(0, rows, _place(draw(part), part.boxes, size), alpha=part.weight)
    return normalize(maps)


def find_map_sizes(parts: Sequence[Explained], n: int) -> list[tuple[int, int]]:
    """Height and width of the finest feature map behind each of the pictures."""
    sizes = [(0, 0)] * n
    for part in parts:
        height, width = part.feature_map.shape[-2:]
        for row in range(n) if part.rows is None else part.rows.tolist():
            sizes[row] = max(sizes[row], (height, width))
    return sizes


def normalize(maps: torch.Tensor) -> torch.Tensor:
    """Maps `[n, h, w]` divided by their maxima; those without any heat stay zeros."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps `[n, h, w]`, not negative, at another size.

    Bicubic, so that the peak may lie between the middles of a coarse map's places, where bilinear always puts it: on
    mura-phantom's 12 x 12 places, the hottest pixel then lies in the finding's box in 80 % of the views, not in 74 %.
    """
    return functional.interpolate(maps[:, None], size, mode="bicubic")[:, 0].clamp_min(0)


def _place(maps: torch.Tensor, boxes: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
    """Maps `[n, h, w]`, enlarged to the whole picture or to their boxes in it, and normalised: `[n, *size]`."""
    if boxes is None:
        return normalize(enlarge(maps, size))
    placed = maps.new_zeros(len(maps), *size)
    for plane, small, edges in zip(placed, maps, find_edges(boxes, *size).tolist(), strict=True):
        left, top, right, bottom = edges
        plane[top:bottom, left:right] = enlarge(small[None], (bottom - top, right - left))[0]
    return normalize(placed)


def grad_cam(
    model: MuraClassifier,
    pixel_values: torch.Tensor | None = None,
    *,
    feature_map: torch.Tensor | None = None,
    output: MuraImageClassifierOutput | None = None,
    size: tuple[int, int] | None = None,
    **given: Any,
) -> torch.Tensor:
    """Where a model looked for z_abnormal - z_normal.

    Grad-CAM (Selvaraju et al., arXiv 1610.02391, equations 1 and 2) at the tensor that feeds the last pooling,
    computed by Captum's `LayerGradCam`. For two classes, the gradient of the difference of the logits points where
    that of the probability does. Only the head is differentiated, and the layer that Captum hooks belongs to this
    call, so threads may share a model; after a prediction, its output saves the second forward pass.

    Where an answer rests on several feature maps, each map is divided by its maximum and the heatmap is their weighted
    mean: of FuseNet's branches, with equal weights and the local one at the place of its crop; of an ensemble's
    members, with their weights in it.

    Args:
        model: Any model that classifies, in evaluation mode.
        pixel_values: float `[B, C, H, W]`. Either this, or `feature_map`, or `output`.
        feature_map: `[B, D, h, w]`, as the output of a model with one backbone gives it.
        output: Of `model.classify_views`, or the field `views` of a `StudyOutput`; of networks on tokens, such as was
            asked for with `explainable`.
        size: Height and width of the result; those of `pixel_values` where None, or of the feature map without them.
        **given: With `pixel_values`, what `classify_views` takes beside them (`body_parts` for models that need it).

    Returns:
        float32 `[B, height, width]` in [0, 1]: each picture's map divided by its maximum. A map without any positive
        evidence is all zeros.

    Raises:
        CheckpointError: If the network has no layer that is laid out like the picture and matters for the answer.
        ValueError: If not exactly one of the inputs is given, or a feature map to a model with several backbones.
    """
    if sum(value is not None for value in (pixel_values, feature_map, output)) != 1:
        raise ValueError("give either pixel_values or feature_map or output")
    if pixel_values is not None:
        with torch.no_grad():
            output = model.classify_views(pixel_values, explainable=True, **given)
        size = size or (pixel_values.shape[-2], pixel_values.shape[-1])
    elif output is None:
        if not isinstance(model, MuraForImageClassification):
            raise ValueError(
                f"the answers of {type(model).__name__} rest on several feature maps: give pixel_values or output"
            )
        output = MuraImageClassifierOutput(feature_map=feature_map)
    parts = model.explain(output)
    n = len(parts[0].feature_map) if output.logits is None else len(output.logits)
    return merge_parts(parts, captum_grad_cam, n, size or max(find_map_sizes(parts, n)))


def smooth_grad_cam(
    model: MuraClassifier,
    pixel_values: torch.Tensor,
    *,
    n_samples: int = 50,
    noise: float = 0.15,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    body_parts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Where a model looked for z_abnormal - z_normal, less what a little noise changes.

    What is averaged are the maps of `grad_cam` as it gives them, each divided by its own maximum, so that every copy
    has the same say; one without any positive evidence counts as zeros. The mean is divided by its maximum again.

    Sources: Smilkov et al., "SmoothGrad", arXiv 1706.03825, for the mean over copies with Gaussian noise, whose
    deviation is a share of the picture's range (max - min); Omeiza et al., "Smooth Grad-CAM++", arXiv 1908.01224, for
    doing so with class activation maps. Theirs smooths the derivatives inside Grad-CAM++, this one plain Grad-CAM's
    maps.

    Args:
        model: As for `grad_cam`.
        pixel_values: float `[B, C, H, W]`.
        n_samples: Noisy copies of each picture.
        noise: Deviation of the noise as a share of the picture's range, over all its channels; with 0 the result is
            that of `grad_cam`.
        seed: Of the noise, which is drawn on the CPU and the same for each picture: a map does not depend on what
            else is in the batch, and the global generators are left alone.
        size: Height and width of the result; those of `pixel_values` where None.
        batch_size: Copies in one pass through the model.
        body_parts: int64 `[B]`, for models that need to be told the part.

    Returns:
        float32 `[B, height, width]` in [0, 1], as `grad_cam`'s.

    Raises:
        CheckpointError: If the network has no layer that is laid out like the picture and matters for the answer.
        ValueError: If a number is out of range or `pixel_values` is no batch of pictures.
    """
    if n_samples < 1 or batch_size < 1 or not noise >= 0:
        raise ValueError(
            f"n_samples is {n_samples}, batch_size {batch_size} and noise {noise}: the first two must be 1 or above, "
            "noise 0 or above"
        )
    if pixel_values.ndim != 4 or not len(pixel_values):
        raise ValueError(
            f"pixel_values must be [B, C, H, W] with at least one picture, not {list(pixel_values.shape)}"
        )
    if noise == 0:
        return grad_cam(model, pixel_values, size=size, **_given(body_parts))
    parts = [None] * len(pixel_values) if body_parts is None else body_parts.split(1)
    maps = torch.stack(
        [
            _mean_map(model, picture, n_samples, noise, seed, size, batch_size, part)
            for picture, part in zip(pixel_values, parts, strict=True)
        ]
    )
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def _mean_map(
    model: MuraClassifier,
    picture: torch.Tensor,
    n_samples: int,
    noise: float,
    seed: int,
    size: tuple[int, int] | None,
    batch_size: int,
    part: torch.Tensor | None,
) -> torch.Tensor:
    """Mean of the maps of one picture's `[C, H, W]` noisy copies, float32 `[height, width]`."""
    generator = torch.Generator().manual_seed(seed)
    deviation = noise * (picture.amax() - picture.amin())
    total = torch.zeros((), device=picture.device)
    for first in range(0, n_samples, batch_size):
        copies = min(batch_size, n_samples - first)
        # One copy after another, so that the noise does not depend on how many go together.
        drawn = torch.stack([torch.randn(picture.shape, generator=generator) for _ in range(copies)])
        noisy = picture + deviation * drawn.to(picture)
        same = _given(None if part is None else part.expand(copies))
        total = total + grad_cam(model, noisy, size=size, **same).sum(0)
    return total / n_samples


def _given(body_parts: torch.Tensor | None) -> dict[str, Any]:
    return {} if body_parts is None else {"body_parts": body_parts}
