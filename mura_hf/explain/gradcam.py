"""Grad-CAM through Captum."""

from typing import Any

import torch

from ..models import MuraClassifier, MuraForImageClassification, MuraImageClassifierOutput
from .merging import find_map_sizes, merge_parts
from .parts import captum_grad_cam


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
