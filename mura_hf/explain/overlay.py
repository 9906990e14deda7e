"""Heatmaps as colours, alone and over a radiograph."""

from collections.abc import Sequence

import cv2
import numpy as np

from .localization import Region

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
