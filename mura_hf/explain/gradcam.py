"""Grad-CAM through Captum."""

from typing import Any

import torch
from torch import nn

from ..models import Explained, MuraClassifier, MuraForImageClassification, MuraImageClassifierOutput
from ..models.class_activation_mura import find_edges


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
        output: Of `model.classify_views`, or the field `views` of a `StudyOutput`.
        size: Height and width of the result; those of `pixel_values` where None, or of the feature map without them.
        **given: With `pixel_values`, what `classify_views` takes beside them (`body_parts` for models that need it).

    Returns:
        float32 `[B, height, width]` in [0, 1]: each picture's map divided by its maximum. A map without any positive
        evidence is all zeros.

    Raises:
        CheckpointError: If the backbone has no feature map, such as a plain vision transformer.
        ValueError: If not exactly one of the inputs is given, or a feature map to a model with several backbones.
    """
    if sum(value is not None for value in (pixel_values, feature_map, output)) != 1:
        raise ValueError("give either pixel_values or feature_map or output")
    if pixel_values is not None:
        with torch.no_grad():
            output = model.classify_views(pixel_values, **given)
        size = size or (pixel_values.shape[-2], pixel_values.shape[-1])
    elif output is None:
        if not isinstance(model, MuraForImageClassification):
            raise ValueError(
                f"the answers of {type(model).__name__} rest on several feature maps: give pixel_values or output"
            )
        output = MuraImageClassifierOutput(feature_map=feature_map)
    parts = model.explain(output)
    if size is None:
        shapes = [part.feature_map.shape for part in parts]
        size = (max(shape[-2] for shape in shapes), max(shape[-1] for shape in shapes))
    n = len(parts[0].feature_map) if output.logits is None else len(output.logits)
    maps = torch.zeros(n, *size, device=parts[0].feature_map.device)
    for part in parts:
        rows = torch.arange(n, device=maps.device) if part.rows is None else part.rows
        maps.index_add_(0, rows, _place(_grad_cam(part), part.boxes, size), alpha=part.weight)
    return _normalize(maps)


def _grad_cam(part: Explained) -> torch.Tensor:
    """The map of one part, float32 `[n, h, w]`, not negative."""
    from captum.attr import LayerGradCam

    probe = nn.Identity()
    # A tensor made in inference mode cannot be differentiated, its copy can.
    with torch.inference_mode(False), torch.enable_grad():
        maps = LayerGradCam(lambda values: part.score(probe(values)), probe).attribute(
            part.feature_map.detach().clone(), relu_attributions=True
        )
    return maps.detach().float()[:, 0]


def _place(maps: torch.Tensor, boxes: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
    """Maps `[n, h, w]`, enlarged to the whole picture or to their boxes in it, and normalised: `[n, *size]`."""
    from captum.attr import LayerAttribution

    if boxes is None:
        return _normalize(LayerAttribution.interpolate(maps[:, None], size, interpolate_mode="bilinear")[:, 0])
    placed = maps.new_zeros(len(maps), *size)
    for plane, small, edges in zip(placed, maps, find_edges(boxes, *size).tolist(), strict=True):
        left, top, right, bottom = edges
        plane[top:bottom, left:right] = LayerAttribution.interpolate(
            small[None, None], (bottom - top, right - left), interpolate_mode="bilinear"
        )[0, 0]
    return _normalize(placed)


def _normalize(maps: torch.Tensor) -> torch.Tensor:
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
