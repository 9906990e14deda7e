"""From the maps of an answer's parts to heatmaps of whole pictures."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from ..models import Explained
from ..models.class_activation_mura import find_edges


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
