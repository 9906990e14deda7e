"""From a heatmap to a rectangle."""

from typing import NamedTuple

import cv2
import numpy as np


class Box(NamedTuple):
    """A rectangle in pixels, half open: columns x0 to x1 - 1, rows y0 to y1 - 1."""

    x0: int
    y0: int
    x1: int
    y1: int


def localize(heatmap: np.ndarray, threshold: float = 0.7) -> Box | None:
    """The rectangle around the largest hot region of a heatmap.

    The map is normalised to [0, 1], cut at the threshold, and the largest component (8-connected) framed, as the
    FuseNet study does with .7.

    Args:
        heatmap: `[H, W]`, any finite values.
        threshold: Share of the way from the coldest to the hottest pixel, in (0, 1).

    Returns:
        The box in pixels of the heatmap; None where the map is constant, so that it points nowhere.

    Raises:
        ValueError: If the threshold is outside (0, 1), or the map is not two-dimensional and finite.
    """
    values = np.asarray(heatmap, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"the heatmap must be [H, W] and finite, not {values.shape}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: it must lie between 0 and 1")
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return None
    hot = ((values - low) / (high - low) >= threshold).astype(np.uint8)
    _, _, regions, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
    region = regions[1 + int(np.argmax(regions[1:, cv2.CC_STAT_AREA]))]
    left, top = int(region[cv2.CC_STAT_LEFT]), int(region[cv2.CC_STAT_TOP])
    return Box(left, top, left + int(region[cv2.CC_STAT_WIDTH]), top + int(region[cv2.CC_STAT_HEIGHT]))
