"""Grad-CAM averaged over noisy copies of a picture."""

from typing import Any

import torch

from ..models import MuraClassifier
from .gradcam import grad_cam


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
