"""Class activation maps, the region that they point at, and the crop of it."""

from collections.abc import Callable

import torch
from torch.nn import functional


def gradient_map(score: Callable[[torch.Tensor], torch.Tensor], feature_map: torch.Tensor) -> torch.Tensor:
    """Evidence for the score at each place, negative where it speaks against it.

    Grad-CAM without its last step (Selvaraju et al., arXiv 1610.02391, equations 1 and 2): the channels of the feature
    map weighted by the mean gradient of the score. Only what follows the map is differentiated.

    Args:
        score: From a feature map to what is explained, `[B]`.
        feature_map: `[B, D, h, w]`.

    Returns:
        `[B, h, w]`, without a gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        values = feature_map.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(values).sum(), values)
    return (gradient.mean((2, 3), keepdim=True) * values.detach()).sum(1)


def is_mean(code: torch.Tensor | None, *feature_maps: torch.Tensor) -> bool:
    """Whether a pooled code `[B, D]` is the mean of feature maps `[B, D, h, w]` over their places.

    Seen on the values themselves, to what their precision can tell, whatever the layer that pooled is called.
    """
    if code is None or code.shape != feature_maps[0].shape[:2]:
        return False
    mean = torch.stack([values.float().mean((2, 3)) for values in feature_maps]).mean(0)
    far = max(1e-5, 2 * torch.finfo(code.dtype).eps)
    return bool(torch.allclose(code.float(), mean, rtol=far, atol=far * float(mean.abs().max())))


def largest_region(maps: torch.Tensor, threshold: float) -> torch.Tensor:
    """The rectangle around the largest connected hot region of each map.

    Each map is normalised to [0, 1] and cut at the threshold; neighbours are eight. Components are found by handing
    the largest number of a pixel on to its neighbours until nothing changes, for all maps at once.

    Args:
        maps: `[B, h, w]`, finite.
        threshold: Share of the way from the coldest to the hottest pixel, in (0, 1).

    Returns:
        float `[B, 4]`: left, top, right and bottom in shares of the map's sides. The whole of a map that is constant.
        Of regions of equal size, the one whose last pixel, row by row, comes first.
    """
    batch, height, width = maps.shape
    values = maps.detach().float()
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    hot = (values - low >= threshold * (high - low)).float()[:, None]
    numbers = torch.arange(1, height * width + 1, device=maps.device, dtype=torch.float32).view(1, 1, height, width)
    labels = numbers * hot
    while True:
        spread = labels
        for _ in range(8):  # looking whether something changed waits for an accelerator, so it is not done each time
            spread = functional.max_pool2d(spread, 3, 1, 1) * hot
        if torch.equal(spread, labels):
            break
        labels = spread
    flat = labels.view(batch, -1).long()
    areas = torch.zeros(batch, height * width + 1, device=maps.device).scatter_add_(1, flat, hot.view(batch, -1))
    areas[:, 0] = 0
    inside = labels[:, 0] == areas.argmax(1).view(-1, 1, 1)
    columns, rows = inside.any(1).float(), inside.any(2).float()
    return torch.stack(
        [
            columns.argmax(1) / width,
            rows.argmax(1) / height,
            1 - columns.flip(1).argmax(1) / width,
            1 - rows.flip(1).argmax(1) / height,
        ],
        dim=1,
    )


def widen(boxes: torch.Tensor, least: float, *, square: bool) -> torch.Tensor:
    """Boxes `[B, 4]` in shares, grown around their middle and shifted to lie inside the picture: until each side is at
    least `least`, and, where asked, as long as the other one.
    """
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp_min(least)
    if square:
        sides = sides.amax(1, keepdim=True).expand(-1, 2)
    start = torch.minimum((middle - sides / 2).clamp_min(0), 1 - sides)
    return torch.cat([start, start + sides], dim=1)


def crop_and_resize(pictures: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """What lies in the boxes, resized bilinearly, with antialiasing where it shrinks.

    Args:
        pictures: `[B, C, H, W]`.
        boxes: `[B, 4]` in shares; grown to whole pixels.
        side: Of the result, in pixels.

    Returns:
        `[B, C, side, side]`.
    """
    edges = find_edges(boxes, pictures.shape[-2], pictures.shape[-1]).tolist()
    return torch.cat(
        [
            resize(picture[None, :, top:bottom, left:right], side)
            for picture, (left, top, right, bottom) in zip(pictures, edges, strict=True)
        ]
    )


def find_edges(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes `[B, 4]` in shares as int64 `[B, 4]` in pixels of a picture, grown to whole ones: left, top, right and
    bottom, of which the latter two lie outside.
    """
    edges = boxes * torch.tensor([width, height, width, height], device=boxes.device)
    return torch.cat([(edges[:, :2] + 1e-3).floor(), (edges[:, 2:] - 1e-3).ceil()], dim=1).long()


def resize(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures `[B, C, H, W]` as squares `[B, C, side, side]`, bilinear, with antialiasing where they shrink.

    Computed in float32: torch has no such resizing for half precision on every device.
    """
    if pictures.shape[-2:] == (side, side):
        return pictures
    resized = functional.interpolate(pictures.float(), (side, side), mode="bilinear", antialias=True)
    return resized.to(pictures.dtype)


__all__ = ["crop_and_resize", "find_edges", "gradient_map", "is_mean", "largest_region", "resize", "widen"]
