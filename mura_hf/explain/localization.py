"""Hot regions of a heatmap, and heatmaps as colours on a radiograph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..models.geometry_mura import to_gray_plane


class Box(NamedTuple):
    """A half-open rectangle in pixels: columns x0 to x1 - 1, rows y0 to y1 - 1."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class Region:
    """A connected hot region of a heatmap.

    Attributes:
        box: Bounding box in pixels of the heatmap.
        area: Number of hot pixels.
        share: Their share of the image, in (0, 1].
        mean_heat: Their mean on the map normalized to [0, 1].
    """

    box: Box
    area: int
    share: float
    mean_heat: float


def localize(heatmap: np.ndarray, threshold: float = 0.7) -> Box | None:
    """Bounding box of the first region of `find_regions`, in pixels of the heatmap; None if the map is constant."""
    regions = find_regions(heatmap, threshold, min_share=1.0)
    return regions[0].box if regions else None


def find_regions(heatmap: np.ndarray, threshold: float = 0.7, *, min_share: float = 0.25) -> list[Region]:
    """Finds the hot regions of a heatmap.

    The map is normalized to [0, 1] and thresholded; its 8-connected components are the regions. The FuseNet study does
    this for the largest one, with a threshold of .7.

    Args:
        heatmap: `[H, W]`, any finite values.
        threshold: Position between the minimum and the maximum of the map, in (0, 1).
        min_share: Smallest area of a region as a share of the largest one's, in [0, 1].

    Returns:
        Regions by decreasing area, equal ones by their first pixel in row order. Empty if the map is constant.

    Raises:
        ValueError: If a number is out of range, or the map is not two-dimensional and finite.
    """
    values = np.asarray(heatmap, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"the heatmap must be [H, W] and finite, not {values.shape}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: it must be between 0 and 1")
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share is {min_share}: it must be in [0, 1]")
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
        box, area = Box(left, top, left + width, top + height), int(areas[number])
        regions.append(Region(box, area, area / values.size, float(heat[labels == number + 1].mean())))
    return regions


_FRAME = (86, 180, 233)
"""Sky blue of Okabe and Ito's palette, distinct from inferno's colours with any kind of colour vision."""


def colour_heat(heatmap: np.ndarray) -> np.ndarray:
    """Renders a heatmap with the inferno colour map, whose lightness increases evenly, also for colour-blind readers.

    Args:
        heatmap: float `[H, W]`, clipped to [0, 1].

    Returns:
        uint8 `[H, W, 4]`, RGBA; transparent without attention.
    """
    heat = np.clip(np.asarray(heatmap, np.float32), 0, 1)
    colours = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opaque = np.rint(255 * np.clip(heat * 1.6, 0, 1)).astype(np.uint8)
    return np.dstack([cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), opaque])


def draw_overlay(
    pixels: np.ndarray | Image.Image, heatmap: np.ndarray, regions: Sequence[Region] = (), *, opacity: float = 0.5
) -> np.ndarray:
    """Draws a heatmap over its radiograph, with frames around the regions of strongest model attention.

    Args:
        pixels: The view, bone bright: float `[H, W]` in [0, 1], uint8 `[H, W]`, or a PIL image of 8 bits.
        heatmap: float `[H, W]` in [0, 1], of the same view.
        regions: Regions from `find_regions`; the frame of the first is twice as thick as the others.
        opacity: Opacity of hot pixels, in [0, 1].

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        ValueError: If the two differ in size, the opacity is outside [0, 1], or the view has other values.
    """
    heatmap = np.asarray(heatmap)
    if isinstance(pixels, Image.Image) or not np.issubdtype(np.asarray(pixels).dtype, np.floating):
        pixels = to_gray_plane(pixels) / np.float32(255)
    if pixels.ndim != 2 or pixels.shape != heatmap.shape:
        raise ValueError(
            f"pixels are {pixels.shape} and the heatmap {heatmap.shape}: both must be [H, W] of one view. Give "
            "grad_cam or explain the size of the view"
        )
    if not (np.min(pixels, initial=0) >= 0 and np.max(pixels, initial=0) <= 1):
        raise ValueError("float pixels must lie in [0, 1]; divide them by the white of their file first")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}: it must be in [0, 1]")
    colours = colour_heat(heatmap)
    film = pixels[..., None].astype(np.float32) * 255
    share = colours[..., 3:].astype(np.float32) / 255 * opacity
    drawn = np.ascontiguousarray(np.rint((1 - share) * film + share * colours[..., :3]).astype(np.uint8))
    thick = max(2, round(max(pixels.shape) / 200))
    for number, region in enumerate(regions):
        corners = (region.box.x0, region.box.y0), (region.box.x1 - 1, region.box.y1 - 1)
        cv2.rectangle(drawn, *corners, _FRAME, thick if number == 0 else max(1, thick // 2))
    return drawn
