"""Maps of one feature map that an answer rests on."""

import torch
from torch import nn

from ..errors import CheckpointError
from ..models import Explained
from ..models.class_activation_mura import gradient_map


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
