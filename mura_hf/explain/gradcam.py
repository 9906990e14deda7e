"""Grad-CAM through Captum."""

from collections.abc import Callable

import torch
from torch import nn

from ..errors import CheckpointError
from ..models import MuraForImageClassification


def grad_cam(
    model: MuraForImageClassification,
    pixel_values: torch.Tensor | None = None,
    *,
    feature_map: torch.Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Where a model looked for z_abnormal - z_normal.

    Grad-CAM (Selvaraju et al., arXiv 1610.02391, equations 1 and 2) at the tensor that feeds the last pooling,
    computed by Captum's `LayerGradCam`. For two classes, the gradient of the difference of the logits points where
    that of the probability does. Only the head is differentiated, and the layer that Captum hooks belongs to this
    call, so threads may share a model; after a prediction, its feature map saves the second forward pass.

    Args:
        model: Any model of the family that classifies, in evaluation mode.
        pixel_values: float `[B, C, H, W]`. Either this or `feature_map`.
        feature_map: `[B, D, h, w]`, as the model's output gives it.
        size: Height and width of the result; those of `pixel_values` where None, or of the feature map without them.

    Returns:
        float32 `[B, height, width]` in [0, 1]: each picture's map divided by its maximum. A map without any positive
        evidence is all zeros.

    Raises:
        CheckpointError: If the backbone has no feature map, such as a plain vision transformer.
        ValueError: If neither or both inputs are given.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    if feature_map is not None and pixel_values is None:
        shape = feature_map.shape
    elif pixel_values is not None and feature_map is None:
        shape = pixel_values.shape
        with torch.no_grad():
            feature_map = model.mura.extract(pixel_values)
    else:
        raise ValueError("give either pixel_values or feature_map")
    if feature_map.ndim != 4:
        raise CheckpointError(
            f"backbone {model.config.backbone} works on tokens and has no feature map for Grad-CAM; "
            "use a convolutional backbone or a Swin transformer for heatmaps"
        )
    probe = nn.Identity()
    # A tensor made in inference mode cannot be differentiated, its copy can.
    with torch.inference_mode(False), torch.enable_grad():
        maps = LayerGradCam(_score(model, probe), probe).attribute(
            feature_map.detach().clone(), relu_attributions=True
        )
    maps = LayerAttribution.interpolate(
        maps.detach().float(), size or (shape[-2], shape[-1]), interpolate_mode="bilinear"
    )[:, 0]
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def _score(model: MuraForImageClassification, probe: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    def score(feature_map: torch.Tensor) -> torch.Tensor:
        logits = model.classify(probe(feature_map)).logits
        return logits[:, 1] - logits[:, 0]

    return score
