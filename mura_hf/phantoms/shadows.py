"""The shadow that one body casts on the detector."""

from functools import lru_cache

import cv2
import numpy as np

from .camera import Camera
from .raymarch import NO_CHANGE, integrate_body
from .solids import Body

_GRAIN_CELLS = 64  # a power of two: the texture repeats
_GRAIN_MM = 0.42


@lru_cache(maxsize=1)
def grain_volume() -> np.ndarray:
    """Periodic band-pass noise of unit variance, float32 `[64, 64, 64]`: the texture of cancellous bone."""
    n = _GRAIN_CELLS
    spectrum = np.fft.fftn(np.random.default_rng(64).standard_normal((n, n, n)))
    wave = np.fft.fftfreq(n) * n
    radius = np.sqrt(wave[:, None, None] ** 2 + wave[None, :, None] ** 2 + wave[None, None, :] ** 2)
    noise = np.real(np.fft.ifftn(spectrum * np.exp(-(((radius - 14) / 6) ** 2))))
    return (noise / noise.std()).astype(np.float32)


Window = tuple[slice, slice]


def cast_shadow(
    body: Body,
    camera: Camera,
    *,
    dense: float,
    spongy: float,
    grain: float = 0.0,
    margin: float = 1.0,
    change: np.ndarray = NO_CHANGE,
    within: tuple[np.ndarray, float] | None = None,
) -> tuple[Window, np.ndarray] | None:
    """Computes the attenuation of one body along every ray that meets it.

    Args:
        body: The body.
        camera: The exposure.
        dense: Attenuation of the body's wall per mm.
        spongy: Attenuation of its filled inside per mm.
        grain: Contrast of the texture of the inside.
        margin: Space in mm around the body for what `change` adds.
        change: A finding; see `integrate_body`.
        within: A point and a distance in mm; rays that pass farther away are skipped.

    Returns:
        Rows and columns of the image, and the float32 attenuation there; None if the body is outside of the image.
    """
    corners = np.concatenate([loft.corners(margin) for loft in body.lofts])
    everything = camera.project(corners)
    height, width = camera.shape
    least, most = everything.min(0), everything.max(0)
    if within:
        middle, radius = camera.project(within[0][None])[0], within[1] * camera.scale
        least, most = np.maximum(least, middle - radius), np.minimum(most, middle + radius)
    c0, r0 = np.maximum(np.floor(least), 0).astype(int)
    c1, r1 = np.minimum(np.ceil(most) + 1, (width, height)).astype(int)
    if r1 <= r0 or c1 <= c0:
        return None
    wanted = np.zeros((r1 - r0, c1 - c0), np.uint8)
    for outline in np.split(everything, len(body.lofts)):
        cv2.fillConvexPoly(wanted, cv2.convexHull(np.round(outline - (c0, r0)).astype(np.int32)), 1)
    if within:
        circle = np.zeros_like(wanted)
        cv2.circle(circle, tuple(np.round(middle - (c0, r0)).astype(int).tolist()), max(1, round(radius)), 1, -1)
        wanted &= circle
    first = body.lofts[0]
    boxes = (corners - first.origin) @ first.frame.T
    pixel = 1 / camera.scale
    attenuation = integrate_body(
        *camera.rays(),
        np.array([r0, r1, c0, c1]),
        wanted.astype(bool),
        *body.stacked,
        np.float32(max(body.melt, 0.05)),
        np.float32(margin),
        boxes.min(0).astype(np.float32),
        boxes.max(0).astype(np.float32),
        np.float32(dense),
        np.float32(spongy),
        grain_volume(),
        np.float32(_GRAIN_MM),
        np.float32(grain),
        change.astype(np.float32),
        np.float32(np.clip(1.4 * pixel, 0.5, 2.5)),
        np.float32(max(0.5, 1.1 * pixel)),
    )
    return (slice(int(r0), int(r1)), slice(int(c0), int(c1))), attenuation
