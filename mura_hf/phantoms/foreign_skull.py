"""Skull-like phantoms: flat layers of tissue, from the front or the side."""

import cv2
import numpy as np

from .foreign_film import expose
from .foreign_noise import coloured_noise
from .foreign_shapes import Plane, Points, mirror, wobble

_LATERAL = 0.5  # share of the pictures
# Lengths are shares of the film's height from its middle; attenuations are chosen so that films look right.
_VAULT, _TUBE, _TOOTH = 5.5, 9.0, 0.55

_HEAD = ((0.0, -0.47), (0.2, -0.45), (0.32, -0.28), (0.33, -0.05), (0.28, 0.12), (0.25, 0.3), (0.18, 0.44))
_NECK = ((0.17, 0.5), (0.17, 0.75))
_CRANIUM = ((0.0, -0.45), (0.19, -0.43), (0.3, -0.27), (0.31, -0.06), (0.25, 0.07), (0.1, 0.12))
_FACE = ((0.0, -0.02), (0.17, -0.02), (0.23, 0.06), (0.21, 0.13), (0.14, 0.22), (0.1, 0.28), (0.0, 0.29))
_CHEEK_CAVITY = ((0.06, 0.12), (0.15, 0.115), (0.13, 0.19), (0.08, 0.23))
_NOSE = ((0.0, 0.03), (0.025, 0.07), (0.05, 0.16), (0.045, 0.21), (0.0, 0.215))
_BROW_CAVITY = ((0.0, -0.08), (0.05, -0.12), (0.09, -0.09), (0.07, -0.055), (0.0, -0.04))
_JAW = ((0.225, 0.11), (0.225, 0.25), (0.2, 0.33), (0.11, 0.41), (0.0, 0.43))

_SIDE_HEAD = (
    (-0.36, -0.1), (-0.31, -0.33), (-0.1, -0.47), (0.14, -0.47), (0.35, -0.32), (0.41, -0.08), (0.34, 0.12),
    (0.26, 0.3), (0.28, 0.75), (-0.02, 0.75), (-0.06, 0.48), (-0.3, 0.48), (-0.35, 0.38), (-0.36, 0.26),
    (-0.42, 0.17), (-0.36, 0.05),
)  # fmt: skip
_SIDE_CRANIUM = (
    (-0.34, -0.1), (-0.29, -0.31), (-0.1, -0.45), (0.13, -0.45), (0.33, -0.31), (0.39, -0.09), (0.33, 0.08),
    (0.2, 0.16), (0.05, 0.15), (-0.08, 0.08), (-0.2, 0.03), (-0.31, 0.01),
)  # fmt: skip
_SIDE_FACE = ((-0.32, -0.02), (-0.33, 0.12), (-0.3, 0.22), (-0.29, 0.29), (-0.12, 0.28), (-0.04, 0.16), (-0.05, 0.04))
_SIDE_JAW = ((0.03, 0.13), (0.03, 0.25), (0.0, 0.34), (-0.1, 0.4), (-0.29, 0.43))


def draw_skull(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A skull from the front or the side, bone bright.

    Args:
        shape: Height and width in pixels.
        rng: What patient, pose and exposure are drawn from.

    Returns:
        float32 `[H, W]`, not clipped.
    """
    plane = Plane.draw(shape, (0.8, 1.05), rng)
    flesh, bones = (_lateral if rng.random() < _LATERAL else _frontal)(plane, rng)
    bones = np.maximum(bones, 0) * (1 + 0.05 * coloured_noise(shape, 1.5, rng))
    return expose(cv2.GaussianBlur(flesh, (0, 0), 1.2), cv2.GaussianBlur(bones, (0, 0), 0.8), rng)


def _both(points: Points | np.ndarray) -> np.ndarray:
    """A symmetric outline from its right half, which starts on the midline at the top."""
    return np.concatenate([np.asarray(points, float), mirror(points)])


def _frontal(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each."""
    flesh = 0.75 * plane.solid(_both(wobble((*_HEAD, *_NECK), 0.005, rng)), 0.15)
    bones = _VAULT * plane.shell(_both(wobble(_CRANIUM, 0.006, rng)), 0.3, rng.uniform(0.015, 0.03))
    bones += 0.25 * plane.solid(_both(wobble(_FACE, 0.006, rng)), 0.06)
    spread, air = rng.uniform(0.95, 1.08), rng.uniform(0.8, 1.2)
    for side in (-1, 1):
        eye = (side * 0.112 * spread, 0.035)
        bones += 0.16 * plane.shell(_ring(eye, (0.082, 0.07)), 0.08, 0.012) / 0.05
        bones -= 0.2 * air * plane.solid(_ring(eye, (0.074, 0.062)), 0.05)
        ridge = [(side * 0.02, 0.07), (side * 0.1, 0.04), (side * 0.19, 0.06), (side * 0.26, 0.11)]
        bones += _TUBE * 0.8 * plane.tube(wobble(ridge, 0.006, rng), 0.028, wall=0.5)
        bones -= 0.24 * air * plane.solid(wobble(_CHEEK_CAVITY, 0.004, rng) * [side, 1], 0.03)
        cheek = [(side * 0.2, -0.03), (side * 0.2, 0.08), (side * 0.235, 0.11), (side * 0.16, 0.15)]
        bones += _TUBE * 0.6 * plane.tube(wobble(cheek, 0.004, rng), 0.014)
        bones -= 0.12 * plane.ball((side * 0.026, 0.16), (0.015, 0.035))
        bones += 0.25 * plane.ball((side * 0.25, 0.17), (0.025, 0.06))  # mastoid
    bones -= 0.22 * air * plane.solid(_both(wobble(_NOSE, 0.003, rng)), 0.025)
    bones += _TUBE * plane.tube(wobble([(0, 0.04), (0, 0.12), (0, 0.21)], 0.003, rng), 0.004)
    bones -= 0.15 * air * plane.solid(_both(wobble(_BROW_CAVITY, 0.007, rng)), 0.02)
    right = wobble(_JAW, 0.004, rng)
    bones += _TUBE * plane.tube(np.concatenate([right, mirror(right)[1:]]), 0.034, wall=0.22)
    _add_teeth(bones, plane, [(x, 0.27 + 1.6 * x * x) for x in np.linspace(-0.1, 0.1, 11)], rng)
    _add_spine(bones, plane, (0.0, 0.3), 0.0, rng)
    return flesh, bones


def _lateral(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each; the face looks to the left."""
    flesh = 0.75 * plane.solid(wobble(_SIDE_HEAD, 0.005, rng), 0.14)
    bones = _VAULT * plane.shell(wobble(_SIDE_CRANIUM, 0.006, rng), 0.32, rng.uniform(0.015, 0.03))
    bones += 0.22 * plane.solid(wobble(_SIDE_FACE, 0.005, rng), 0.08)
    air = rng.uniform(0.8, 1.2)
    for centre, axes in (
        ((-0.26, 0.05), (0.05, 0.05)),
        ((-0.2, 0.17), (0.075, 0.055)),
        ((-0.31, -0.05), (0.018, 0.04)),
        ((-0.1, 0.09), (0.04, 0.028)),
    ):  # orbit, then the cavities of cheek, brow and base
        bones -= 0.2 * air * plane.solid(_ring(centre, axes), 0.03)
        bones += 0.1 * plane.shell(_ring(centre, axes), 0.05, 0.006) / 0.025
    base = [
        (-0.31, 0.015),
        (-0.2, 0.0),
        (-0.1, 0.035),
        (-0.085, 0.065),
        (-0.055, 0.065),
        (-0.045, 0.035),
        (0.06, 0.14),
    ]
    bones += _TUBE * plane.tube(wobble(base, 0.003, rng), 0.012)
    bones += 0.5 * plane.ball((0.05, 0.13), (0.07, 0.04), 0.2)
    for _ in range(25):  # air cells behind the ear
        spot = (float(rng.normal(0.12, 0.025)), float(rng.normal(0.17, 0.025)))
        bones -= 0.1 * plane.ball(spot, (0.009, 0.009))
    bones += _TUBE * 0.9 * plane.tube(wobble(_SIDE_JAW, 0.004, rng), 0.036, wall=0.22)
    bones += _TUBE * 0.5 * plane.tube([(-0.06, 0.2), (-0.05, 0.28), (-0.02, 0.34)], 0.025)
    bones += _TUBE * 0.5 * plane.tube([(-0.33, 0.02), (-0.36, 0.09)], 0.01)  # nose
    bones += _TUBE * 0.5 * plane.tube([(-0.21, 0.1), (-0.12, 0.12), (0.02, 0.13)], 0.011)  # cheek bone
    _add_teeth(bones, plane, [(float(x), 0.29) for x in np.linspace(-0.3, -0.12, 8)], rng)
    _add_spine(bones, plane, (0.13, 0.24), 0.1, rng)
    for _ in range(3):  # grooves of vessels and a suture
        start = (float(rng.uniform(-0.15, 0.2)), 0.0)
        path = [start, (start[0] + rng.normal(0, 0.05), -0.2), (start[0] + rng.normal(0.03, 0.1), -0.4)]
        bones -= 2.0 * plane.tube(wobble(path, 0.015, rng), 0.006, wall=0.9, filling=1.0)
    return flesh, bones


def _ring(centre: tuple[float, float], axes: tuple[float, float]) -> np.ndarray:
    """Corners of an ellipse, float64 `[16, 2]`."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([centre[0] + axes[0] * np.cos(angle), centre[1] + axes[1] * np.sin(angle)], 1)


def _add_teeth(bones: np.ndarray, plane: Plane, row: list[tuple[float, float]], rng: np.random.Generator) -> None:
    """Adds upper and lower teeth along a row between them, each a crown and a root, some lost, some filled."""
    half = abs(row[1][0] - row[0][0]) * 0.46
    for x, y in row:
        for way in (-1, 1):
            if rng.random() < 0.08:
                continue
            crown = (float(x), float(y) + way * 0.026)
            bones += _TOOTH * plane.block(crown, (half, 0.022), float(rng.normal(0, 0.06)))
            bones += 0.5 * _TOOTH * plane.ball((float(x), float(y) + way * 0.06), (0.6 * half, 0.04))
            if rng.random() < 0.15:
                bones += 1.2 * plane.ball(crown, (0.6 * half, 0.008))


def _add_spine(
    bones: np.ndarray, plane: Plane, start: tuple[float, float], slope: float, rng: np.random.Generator
) -> None:
    """Adds vertebrae of the neck from `start` downwards; they lean backwards by `slope`."""
    step = rng.uniform(0.055, 0.065)
    for number in range(8):
        centre = (start[0] + slope * number * step, start[1] + number * step)
        bones += 0.3 * plane.block(centre, (0.042, 0.024), slope)
        bones += 0.2 * plane.ball(
            (centre[0] + (0.06 if slope else 0), centre[1] + 0.015), (0.045, 0.012), 0.3 * bool(slope)
        )
