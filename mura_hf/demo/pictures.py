"""Radiographs and heatmaps as pictures inside the page."""

import base64
import io

import cv2
import numpy as np
from PIL import Image

from ..explain import colour_heat

_FILM_SIDE = 1000  # pixels on the long side; what a screen can show
_HEAT_SIDE = 320


def film_url(pixels: np.ndarray) -> str:
    """A radiograph, float `[H, W]` in [0, 1], as a data URL."""
    return _url(_fit(np.rint(pixels * 255).astype(np.uint8), _FILM_SIDE))


def heat_url(heatmap: np.ndarray) -> str:
    """A heatmap, float `[H, W]` in [0, 1], as a data URL: inferno colours, clear where there is no attention."""
    return _url(colour_heat(_fit(np.asarray(heatmap, np.float32), _HEAT_SIDE)))


def _fit(values: np.ndarray, side: int) -> np.ndarray:
    scale = min(1.0, side / max(values.shape))
    size = (max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale)))
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA) if scale < 1 else values


def _url(values: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
