"""From a heatmap to rectangles."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np


class Box(NamedTuple):
    """A rectangle in pixels, half open: columns x0 to x1 - 1, rows y0 to y1 - 1."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class Region:
    """A hot part of a heatmap.

    Attributes:
        box: The rectangle around it, in pixels of the heatmap.
        area: Hot pixels.
        share: Their share of the picture, in (0, 1].
        mean_heat: Their mean on the map that was normalised to [0, 1].
    """

    box: Box
    area: int
    share: float
    mean_heat: float


def localize(heatmap: np.ndarray, threshold: float = 0.7) -> Box | None:
    """The rectangle around the largest hot region of a heatmap; see `find_regions`.

    Args:
        heatmap: `[H, W]`, any finite values.
        threshold: Share of the way from the coldest to the hottest pixel, in (0, 1).

    Returns:
        The box in pixels of the heatmap; None where the map is constant, so that it points nowhere.

    Raises:
        ValueError: If the threshold is outside (0, 1), or the map is not two-dimensional and finite.
    """
    regions = find_regions(heatmap, threshold, min_share=1.0)
    return regions[0].box if regions else None


def find_regions(heatmap: np.ndarray, threshold: float = 0.7, *, min_share: float = 0.25) -> list[Region]:
    """The hot regions of a heatmap.

    The map is normalised to [0, 1], cut at the threshold, and its components (8-connected) framed, as the FuseNet
    study does for the largest with .7.

    Args:
        heatmap: `[H, W]`, any finite values.
        threshold: Share of the way from the coldest to the hottest pixel, in (0, 1).
        min_share: Regions smaller than this share of the largest one's area are left out, in [0, 1].

    Returns:
        The largest first; of equal ones, that whose first pixel, row by row, comes first. None of a map that is
        constant, so that it points nowhere.

    Raises:
        ValueError: If a number is out of range, or the map is not two-dimensional and finite.
    """
    values = np.asarray(heatmap, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"the heatmap must be [H, W] and finite, not {values.shape}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: it must lie between 0 and 1")
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share is {min_share}: it must lie in [0, 1]")
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return []
    heat = (values - low) / (high - low)
    _, labels, found, _ = cv2.connectedComponentsWithStats((heat >= threshold).astype(np.uint8), connectivity=8)
    found = found[1:]
    areas = found[:, cv2.CC_STAT_AREA]
    regions = []
    for number in np.argsort(-areas, kind="stable"):
        if areas[number] < min_share * areas.max():
            break
        left, top, width, height = (int(value) for value in found[number, : cv2.CC_STAT_AREA])
        box = Box(left, top, left + width, top + height)
        inside = labels[box.y0 : box.y1, box.x0 : box.x1] == number + 1
        area = int(areas[number])
        mean = float(heat[box.y0 : box.y1, box.x0 : box.x1][inside].mean())
        regions.append(Region(box, area, area / values.size, mean))
    return regions
