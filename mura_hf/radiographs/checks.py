"""What every radiograph must be, wherever it came from."""

import numpy as np

from ..errors import RadiographError
from .radiograph import Radiograph

MAX_PIXELS = 40_000_000
"""Larger pictures are refused before they are decoded."""

MIN_SIDE = 16
"""Pixels on the short side; below, nothing can be seen."""

MAX_ASPECT = 12
"""Longer side over shorter; MURA's and hospitals' films stay far below."""


def check_size(name: str, width: int, height: int) -> None:
    """Refuses a picture by the size that its header gives.

    Raises:
        RadiographError: If it has more than `MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        raise RadiographError(too_large(name, width, height))


def too_large(name: str, width: int | None = None, height: int | None = None) -> str:
    """The sentence about a picture of more than `MAX_PIXELS` pixels."""
    size = f" ({width} x {height})" if width else ""
    most = MAX_PIXELS // 1_000_000
    return f"{name} has more than {most} megapixels{size}, which no radiograph needs; export it smaller."


def check_radiograph(radiograph: Radiograph, name: str) -> Radiograph:
    """Gives a radiograph back if it can be one.

    Raises:
        RadiographError: If the pixels are not `[H, W]` in [0, 1], too few, much longer than wide, or all of one tone.
    """
    low, high = _check_shape_and_tones(radiograph.pixels, name)
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise RadiographError(
            f"{name} has pixels from {low:g} to {high:g}; they must lie in [0, 1], so window them first."
        )
    return radiograph


def check_film(levels: np.ndarray, name: str) -> None:
    """As `check_radiograph`, of gray levels, uint8 `[H, W]`."""
    _check_shape_and_tones(levels, name)


def _check_shape_and_tones(pixels: np.ndarray, name: str) -> tuple[float, float]:
    """Refuses what no radiograph is; returns the least and the greatest value."""
    size = " x ".join(map(str, pixels.shape[::-1]))
    if pixels.ndim != 2 or min(pixels.shape) < MIN_SIDE:
        raise RadiographError(
            f"{name} has only {size} pixels; give the radiograph itself, at least {MIN_SIDE} a side."
        )
    if max(pixels.shape) > MAX_ASPECT * min(pixels.shape):
        raise RadiographError(
            f"{name} has {size} pixels, one side more than {MAX_ASPECT} times the other, as in no radiograph; "
            "check it."
        )
    low, high = float(pixels.min()), float(pixels.max())
    if low == high:
        raise RadiographError(
            f"{name} is one even tone from edge to edge, so there is nothing to read; check the export."
        )
    return low, high
