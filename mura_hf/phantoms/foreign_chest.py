"""Chest-like phantoms: flat layers of tissue, from the front or the side."""

import cv2
import numpy as np

from .foreign_film import expose
from .foreign_noise import coloured_noise
from .foreign_shapes import Plane, mirror, wobble

_LATERAL = 0.25  # share of the pictures
# Lengths are shares of the film's height from its middle; attenuations are chosen so that films look right.
_RIB, _VESSEL, _BONE = 25.0, 7.0, 0.32
_TORSO = (
    (0.075, -0.75), (0.08, -0.46), (0.12, -0.41), (0.28, -0.40), (0.42, -0.36), (0.47, -0.24), (0.45, -0.1),
    (0.40, 0.05), (0.38, 0.3), (0.39, 0.75),
)  # fmt: skip
_LUNG = (
    (0.09, -0.36), (0.16, -0.36), (0.225, -0.28), (0.275, -0.12), (0.30, 0.05), (0.31, 0.2), (0.315, 0.27),
    (0.28, 0.21), (0.2, 0.16), (0.1, 0.15), (0.05, 0.19), (0.05, 0.0), (0.045, -0.2), (0.05, -0.33),
)  # fmt: skip
_HEART = (
    (-0.06, -0.16), (0.05, -0.20), (0.085, -0.15), (0.075, -0.08), (0.13, 0.0), (0.2, 0.1), (0.2, 0.18),
    (0.1, 0.22), (-0.05, 0.21), (-0.09, 0.12), (-0.07, 0.0),
)  # fmt: skip
_CLAVICLE = ((0.03, -0.26), (0.09, -0.285), (0.16, -0.29), (0.24, -0.33), (0.33, -0.365))
_SCAPULA = ((0.25, -0.33), (0.35, -0.36), (0.36, -0.28), (0.31, -0.15), (0.27, -0.02), (0.26, -0.15))

_SIDE_TORSO = (
    (-0.1, -0.75), (-0.12, -0.44), (-0.24, -0.3), (-0.3, -0.1), (-0.31, 0.1), (-0.3, 0.75), (0.33, 0.75),
    (0.34, 0.3), (0.38, 0.0), (0.36, -0.25), (0.22, -0.42), (0.16, -0.75),
)  # fmt: skip
_SIDE_LUNG = (
    (-0.03, -0.36), (0.1, -0.38), (0.23, -0.25), (0.28, 0.0), (0.27, 0.25), (0.22, 0.31), (0.1, 0.2), (-0.05, 0.15),
    (-0.2, 0.22), (-0.26, 0.22), (-0.25, 0.0), (-0.2, -0.2), (-0.12, -0.3),
)  # fmt: skip
_SIDE_HEART = ((-0.14, -0.1), (0.0, -0.12), (0.07, 0.0), (0.05, 0.15), (-0.05, 0.2), (-0.22, 0.22), (-0.23, 0.08))


def draw_chest(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A chest from the front, or at times from the side, bone bright.

    Args:
        shape: Height and width in pixels.
        rng: What patient, pose and exposure are drawn from.

    Returns:
        float32 `[H, W]`, not clipped.
    """
    plane = Plane.draw(shape, (0.9, 1.25), rng)
    flesh, bones = (_lateral if rng.random() < _LATERAL else _frontal)(plane, rng)
    return expose(flesh, bones, rng)


def _frontal(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each."""
    wide, low = rng.uniform(0.9, 1.1), rng.uniform(-0.03, 0.05)  # how stout, and how deep the breath
    right = wobble(_TORSO, 0.006, rng) * [wide, 1]
    flesh = 0.95 * plane.solid(np.concatenate([right, mirror(right)]), 0.22)
    sides = []
    for side, drop in ((-1, 0.0), (1, 0.02)):
        lung = wobble(_LUNG, 0.006, rng) * [side * wide, 1]
        lung[5:11, 1] += low + drop
        sides.append(plane.solid(lung, 0.06))
        for _ in range(7):
            flesh += _VESSEL * _vessels(plane, (side * 0.07, -0.06), rng.uniform(-1.3, 1.3), side, rng)
    lungs = np.maximum(*sides)
    flesh = flesh - 0.62 * lungs * (1 + 0.06 * coloured_noise(plane.shape, 2.0, rng))
    flesh += 0.15 * plane.solid([(-0.05, -0.4), (0.05, -0.4), (0.06, 0.3), (-0.06, 0.3)], 0.05)
    heart = wobble(_HEART, 0.006, rng) * rng.uniform(0.9, 1.2)
    flesh += 0.42 * plane.solid(heart, 0.09)
    flesh -= 0.16 * plane.tube([(0.005, -0.6), (0.0, -0.3), (0.0, -0.13)], 0.02, filling=1.0, wall=0.9) / 0.02
    if rng.random() < 0.4:  # breasts
        for side in (-1, 1):
            flesh += 0.16 * plane.ball((side * 0.19 * wide, 0.13 + low), (0.13, 0.14))
    bones = _frontal_bones(plane, wide, rng)
    return cv2.GaussianBlur(flesh, (0, 0), 1.2), bones


def _frontal_bones(plane: Plane, wide: float, rng: np.random.Generator) -> np.ndarray:
    bones = np.zeros(plane.shape, np.float32)
    for y in np.arange(-0.62, 0.62, rng.uniform(0.055, 0.065)):
        bones += 0.5 * _BONE * plane.block((0.0, float(y)), (0.036, 0.024))
        bones += 0.5 * _BONE * plane.ball((0.0, float(y) + 0.015), (0.006, 0.018))
        for side in (-1, 1):
            bones += 0.4 * _BONE * plane.ball((side * 0.022, float(y) - 0.008), (0.008, 0.011))
            bones += 0.3 * _BONE * plane.ball((side * 0.05, float(y) - 0.004), (0.026, 0.009))
    gap, radius, slope = rng.uniform(0.058, 0.066), rng.uniform(0.009, 0.012), rng.uniform(0.8, 1.2)
    for side in (-1, 1):
        for number in range(10):
            y = -0.36 + number * gap
            reach = wide * float(np.interp(number, [0, 1, 3, 6, 9], [0.13, 0.19, 0.26, 0.305, 0.315]))
            back = [(0.03, y), (0.4 * reach, y - 0.02), (0.8 * reach, y + 0.025 * slope), (reach, y + 0.09 * slope)]
            front = [(reach, y + 0.09 * slope), (0.93 * reach, y + 0.15 * slope), (0.55 * reach, y + 0.19 * slope)]
            for path, thick, share in ((back, radius, 1.0), (front, 1.2 * radius, 0.6)):
                points = wobble(path, 0.003, rng) * [side, 1]
                bones += share * _RIB * plane.tube(points, thick, wall=0.25, filling=0.35)
        bones += _RIB * plane.tube(wobble(_CLAVICLE, 0.004, rng) * [side, 1], 0.014, wall=0.25)
        bones += 0.3 * _BONE * plane.solid(wobble(_SCAPULA, 0.006, rng) * [side, 1], 0.03)
        bones += 0.7 * _BONE * plane.ball((side * 0.41, -0.33), (0.05, 0.052))
        bones += 0.5 * _RIB * plane.tube([(side * 0.42, -0.3), (side * 0.45, -0.1), (side * 0.47, 0.1)], 0.024)
    return bones


def _lateral(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each; the breastbone is to the left."""
    flesh = 1.05 * plane.solid(wobble(_SIDE_TORSO, 0.006, rng), 0.2)
    lungs = plane.solid(wobble(_SIDE_LUNG, 0.008, rng), 0.07)
    flesh = flesh - 0.68 * lungs * (1 + 0.06 * coloured_noise(plane.shape, 2.0, rng))
    for _ in range(10):
        way = rng.uniform(-np.pi, np.pi)
        flesh += _VESSEL * _vessels(plane, (0.02, -0.07), way, 1, rng)
    flesh += 0.4 * plane.solid(wobble(_SIDE_HEART, 0.008, rng), 0.08)
    flesh -= 0.14 * plane.tube([(0.03, -0.6), (0.03, -0.3), (0.04, -0.1)], 0.02, filling=1.0, wall=0.9) / 0.02
    bones = np.zeros(plane.shape, np.float32)
    for y in np.arange(-0.62, 0.62, rng.uniform(0.055, 0.065)):
        x = 0.24 - 0.06 * float(np.cos(2.6 * y)) + 0.06
        bones += 0.6 * _BONE * plane.block((x - 0.02, float(y)), (0.036, 0.024), 0.3 * float(np.sin(2.6 * y)))
        bones += 0.35 * _BONE * plane.ball((x + 0.05, float(y) + 0.02), (0.03, 0.01), 0.6)
    for number in range(9):
        y = -0.33 + number * 0.06
        for off in (0.0, rng.uniform(0.008, 0.02)):  # both sides of the body
            reach = float(np.interp(number, [0, 3, 9], [-0.05, -0.2, -0.24]))
            path = [(0.27 + off, y), (0.29, y + 0.05), (0.1, y + 0.15), (reach, y + 0.2)]
            bones += 0.6 * _RIB * plane.tube(wobble(path, 0.004, rng), 0.01, wall=0.25, filling=0.35)
    bones += 0.5 * _RIB * plane.tube([(-0.17, -0.27), (-0.24, -0.1), (-0.27, 0.08)], 0.012)
    bones += 0.5 * _RIB * plane.tube([(0.0, -0.33), (-0.03, -0.4), (-0.05, -0.6)], 0.03)  # an arm, raised
    return cv2.GaussianBlur(flesh, (0, 0), 1.2), bones


def _vessels(
    plane: Plane, start: tuple[float, float], way: float, side: int, rng: np.random.Generator, radius: float = 0.006
) -> np.ndarray:
    """A vessel and its branches, chord in units, float32 `[H, W]`.

    Args:
        plane: The film.
        start: Where it begins.
        way: Its direction in radians, 0 to the side.
        side: 1 to the right, -1 to the left.
        rng: What its course is drawn from.
        radius: In units; branches are thinner, and end below .002.
    """
    long = rng.uniform(6, 12) * radius
    end = (start[0] + side * long * float(np.cos(way)), start[1] + long * float(np.sin(way)))
    chord = plane.tube([start, end], radius, wall=0.9, filling=1.0)
    if radius > 0.002:
        for turn in (rng.uniform(0.1, 0.6), -rng.uniform(0.1, 0.6)):
            chord = np.maximum(chord, _vessels(plane, end, way + turn, side, rng, radius * rng.uniform(0.62, 0.78)))
    return chord
