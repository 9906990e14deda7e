"""Radiographs and heatmaps as pictures inside the page."""

import base64
import io

import cv2
import numpy as np
from PIL import Image

from ..explain import colour_heat

FILM_SIDE = 1600  # pixels on the long side: what zooming in can show
THUMB_SIDE = 160
_HEAT_SIDE = 320
_QUALITY = 93  # of JPEG; what it changes in a film is below one level in the mean


def film_url(pixels: np.ndarray, side: int = FILM_SIDE) -> str:
    """A radiograph, float `[H, W]` in [0, 1], as a data URL of so many pixels on its longer side at most."""
    return _url(_fit(np.rint(pixels * 255).astype(np.uint8), side), "JPEG", quality=_QUALITY)


def heat_url(heatmap: np.ndarray) -> str:
    """A heatmap, float `[H, W]` in [0, 1], as a data URL: inferno colours, clear where there is no attention."""
    return _url(colour_heat(_fit(np.asarray(heatmap, np.float32), _HEAT_SIDE)), "PNG", compress_level=3)


def _fit(values: np.ndarray, side: int) -> np.ndarray:
    scale = min(1.0, side / max(values.shape))
    size = (max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale)))
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA) if scale < 1 else values


def _url(values: np.ndarray, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
