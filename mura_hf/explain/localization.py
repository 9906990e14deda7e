"""From a heatmap to rectangles.

Heatmaps as colours, alone and over a radiograph.
"""

from collections.abc import Sequence
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


_FRAME = (86, 180, 233)
"""Sky blue of Okabe and Ito's palette, which is told from inferno's colours by every kind of colour vision."""


def colour_heat(heatmap: np.ndarray) -> np.ndarray:
    """A heatmap in inferno's colours, whose lightness grows evenly, so that it reads without colour vision too.

    Args:
        heatmap: float `[H, W]`, cut to [0, 1].

    Returns:
        uint8 `[H, W, 4]`, red, green, blue and opacity: clear where there is no attention.
    """
    heat = np.clip(np.asarray(heatmap, np.float32), 0, 1)
    colours = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opaque = np.rint(255 * np.clip(heat * 1.6, 0, 1)).astype(np.uint8)
    return np.dstack([cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), opaque])


def draw_overlay(
    pixels: np.ndarray, heatmap: np.ndarray, regions: Sequence[Region] = (), *, opacity: float = 0.5
) -> np.ndarray:
    """A radiograph under its heatmap, with frames around the regions of the strongest model attention.

    Args:
        pixels: float `[H, W]` in [0, 1], bone bright.
        heatmap: float `[H, W]` in [0, 1], of the same view.
        regions: From `find_regions` of the heatmap; the first one's frame is whole, the others' half as thick.
        opacity: Of the heatmap where it is hot, in [0, 1].

    Returns:
        uint8 `[H, W, 3]`, red, green, blue.

    Raises:
        ValueError: If the two are not of one size, or the opacity lies outside [0, 1].
    """
    if pixels.ndim != 2 or pixels.shape != heatmap.shape:
        raise ValueError(f"pixels are {pixels.shape} and the heatmap {heatmap.shape}: both must be [H, W], one view's")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}: it must lie in [0, 1]")
    colours = colour_heat(heatmap)
    film = np.clip(pixels, 0, 1)[..., None].astype(np.float32) * 255
    share = colours[..., 3:].astype(np.float32) / 255 * opacity
    drawn = np.ascontiguousarray(np.rint((1 - share) * film + share * colours[..., :3]).astype(np.uint8))
    thick = max(2, round(max(pixels.shape) / 200))
    for number, region in enumerate(regions):
        corners = (region.box.x0, region.box.y0), (region.box.x1 - 1, region.box.y1 - 1)
        cv2.rectangle(drawn, *corners, _FRAME, thick if number == 0 else max(1, thick // 2))
    return drawn
