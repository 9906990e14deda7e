"""Chest-like and skull-like phantoms from flat layers of tissue, exposed like the phantoms of limbs.

`outlines.json` holds the shapes. Lengths are shares of the film's height from its centre; attenuations are chosen so
that films look right.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mura_hf.phantoms.rendering import EXPOSURES, collimation, develop, draw_marker

_OUTLINES = json.loads((Path(__file__).parent / "outlines.json").read_text())
_CHEST, _SIDE_CHEST = _OUTLINES["frontal_chest"], _OUTLINES["lateral_chest"]
_SKULL, _SIDE_SKULL = _OUTLINES["frontal_skull"], _OUTLINES["lateral_skull"]

Points = Sequence[tuple[float, float]] | np.ndarray


@dataclass(frozen=True)
class Plane:
    """A film and the position of a body on it. Lengths are in units of the film's height; (0, 0) is the centre."""

    shape: tuple[int, int]
    scale: float  # pixels per unit
    turn: float  # rotation of the body in radians
    shift: tuple[float, float]  # to the right and down
    mirrored: bool

    @classmethod
    def draw(cls, shape: tuple[int, int], zoom: tuple[float, float], rng: np.random.Generator) -> "Plane":
        """Draws a position: scaled by about `zoom`, slightly rotated and shifted."""
        shift = (float(rng.normal(0, 0.025)), float(rng.normal(0, 0.025)))
        scale = shape[0] * float(rng.uniform(*zoom))
        return cls(shape, scale, float(rng.normal(0, 0.05)), shift, bool(rng.random() < 0.5))

    def pixels(self, points: Points) -> np.ndarray:
        """Columns and rows of points, float64 `[n, 2]`."""
        x, y = np.asarray(points, float).T
        x = -x if self.mirrored else x
        c, s = np.cos(self.turn), np.sin(self.turn)
        turned = np.stack([x * c - y * s + self.shift[0], x * s + y * c + self.shift[1]], 1)
        return turned * self.scale + np.array([self.shape[1] / 2, self.shape[0] / 2])

    def inside(self, outline: Points) -> np.ndarray:
        """Share of every pixel inside of a smoothed outline, float32 `[H, W]` in [0, 1]."""
        canvas = np.zeros(self.shape, np.uint8)
        curve = np.round(self.pixels(smooth_curve(outline, closed=True)) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [curve], 255, cv2.LINE_AA, 4)
        return canvas / np.float32(255)

    def solid(self, outline: Points, rim: float) -> np.ndarray:
        """Relative thickness of a body with a rounded rim, float32 `[H, W]`: 1 from `rim` units inside on."""
        depth = cv2.distanceTransform((self.inside(outline) > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        share = np.minimum(depth / (rim * self.scale), 1)
        return cv2.GaussianBlur(np.sqrt(1 - (1 - share) ** 2), (0, 0), max(0.02 * rim * self.scale, 0.5))

    def shell(self, outline: Points, rim: float, wall: float) -> np.ndarray:
        """Chord through the wall of a hollow body, float32 `[H, W]`; `rim` is the radius of curvature of its rim."""
        depth = cv2.distanceTransform((self.inside(outline) > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / self.scale
        outer = np.minimum(depth, rim)
        inner = np.clip(depth - wall, 0, rim - wall)
        return _chord(rim, rim - outer) - _chord(rim - wall, rim - wall - inner)

    def tube(self, points: Points, radius: float, *, wall: float = 0.3, filling: float = 0.4) -> np.ndarray:
        """Chord through a bone along a smoothed path, float32 `[H, W]`.

        The wall is a share of the radius; the filling is the density of the inside relative to the wall.
        """
        curve, chord = self.pixels(smooth_curve(points, closed=False)), np.zeros(self.shape, np.float32)
        window = self._window(curve, radius)
        ground = np.full(chord[window].shape, 255, np.uint8)
        if ground.size:
            path = np.round((curve - (window[1].start, window[0].start)) * 16).astype(np.int32)
            cv2.polylines(ground, [path], False, 0, 1, cv2.LINE_8, 4)
        if (ground == 0).any():
            off = cv2.distanceTransform(ground, cv2.DIST_L2, 5) / self.scale
            chord[window] = _chord(radius, off) - (1 - filling) * _chord(radius * (1 - wall), off)
        return chord

    def ball(self, centre: tuple[float, float], axes: tuple[float, float], lean: float = 0.0) -> np.ndarray:
        """Relative thickness of an ellipsoid, float32 `[H, W]` in [0, 1]."""
        thickness = np.zeros(self.shape, np.float32)
        window, u, v = self._around(centre, max(axes), lean)
        thickness[window] = np.sqrt(np.maximum(1 - (u / axes[0]) ** 2 - (v / axes[1]) ** 2, 0))
        return thickness

    def block(self, centre: tuple[float, float], half: tuple[float, float], lean: float = 0.0) -> np.ndarray:
        """Box with rounded corners and a dense rim (a vertebra, a tooth), float32 `[H, W]` in [0, 1]."""
        thickness = np.zeros(self.shape, np.float32)
        window, u, v = self._around(centre, sum(half), lean)
        edge = (np.abs(u / half[0]) ** 5 + np.abs(v / half[1]) ** 5) ** 0.2  # 1 at the surface
        thickness[window] = np.clip((1 - edge) * 12, 0, 1) * (0.7 + 0.3 * np.clip((edge - 0.7) * 6, 0, 1))
        return thickness

    def _around(
        self, centre: tuple[float, float], reach: float, lean: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """Rows and columns within `reach` of a centre, and coordinates there along axes rotated by `lean` radians."""
        column, row = self.pixels([centre])[0]
        window = self._window(np.array([[column, row]]), reach)
        x = (np.arange(window[1].start, window[1].stop) - column)[None] / self.scale
        y = (np.arange(window[0].start, window[0].stop) - row)[:, None] / self.scale
        angle = self.turn + (-lean if self.mirrored else lean)
        return window, x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)

    def _window(self, pixels: np.ndarray, reach: float) -> tuple[slice, slice]:
        """Rows and columns of the film within `reach` units of some pixels; empty outside of the film."""
        low = np.floor(pixels.min(0) - reach * self.scale - 1).astype(int)
        high = np.ceil(pixels.max(0) + reach * self.scale + 2).astype(int)
        (left, top), (right, bottom) = np.maximum(low, 0), np.minimum(high, self.shape[::-1])
        return slice(int(top), max(int(bottom), int(top))), slice(int(left), max(int(right), int(left)))


def smooth_curve(points: Points, *, closed: bool) -> np.ndarray:
    """Smooths a polygon by cutting its corners four times (Chaikin, 1974), float64 `[n, 2]`."""
    curve = np.asarray(points, float)
    for _ in range(4):
        ahead = np.roll(curve, -1, 0) if closed else curve[1:]
        here = curve if closed else curve[:-1]
        cut = np.stack([0.75 * here + 0.25 * ahead, 0.25 * here + 0.75 * ahead], 1).reshape(-1, 2)
        curve = cut if closed else np.concatenate([curve[:1], cut, curve[-1:]])
    return curve


def wobble(points: Points, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Moves each point at random."""
    return np.asarray(points, float) + rng.normal(0, deviation, (len(points), 2))


def mirror(points: Points) -> np.ndarray:
    """Mirrors points at the midline, in the order that closes a shared outline."""
    return (np.asarray(points, float) * [-1, 1])[::-1]


def _chord(radius: float, off: np.ndarray) -> np.ndarray:
    """Half the chord of a circle at a distance from its centre, float32."""
    return np.sqrt(np.maximum(radius**2 - np.asarray(off, np.float32) ** 2, 0))


def coloured_noise(shape: tuple[int, int], exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Draws noise with a power spectrum of 1 / frequency ** `exponent`, mean 0 and deviation 1, float32 `[H, W]`."""
    spectrum = np.fft.rfft2(rng.standard_normal(shape))
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency ** (-exponent / 2), shape)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


_UNDEREXPOSED, _MARKED = 0.1, 0.5  # shares of films


def expose(flesh: np.ndarray, bones: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposes layers of tissue, with a marker and collimation like the phantoms of limbs."""
    flesh = np.maximum(flesh, 0).astype(np.float32)
    normal = flesh + bones.astype(np.float32)
    total = normal
    if rng.random() < _MARKED:
        total = normal + draw_marker(flesh.shape, str(rng.choice(["L", "R"])), rng)
    exposure = EXPOSURES["underexposed" if rng.random() < _UNDEREXPOSED else "standard"]
    return develop(total, normal, flesh, exposure, rng, rng) * collimation(flesh.shape, rng)


_LATERAL = 0.25  # share of the images
_RIB, _VESSEL, _BONE = 25.0, 7.0, 0.32


def draw_chest(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws a frontal or (less often) lateral chest, bone bright: float32 `[H, W]`, not clipped."""
    plane = Plane.draw(shape, (0.9, 1.25), rng)
    flesh, bones = (_lateral if rng.random() < _LATERAL else _frontal)(plane, rng)
    return expose(flesh, bones, rng)


def _frontal(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each."""
    wide, low = rng.uniform(0.9, 1.1), rng.uniform(-0.03, 0.05)  # width of the body, and depth of the breath
    right = wobble(_CHEST["torso"], 0.006, rng) * [wide, 1]
    flesh = 0.95 * plane.solid(np.concatenate([right, mirror(right)]), 0.22)
    sides = []
    for side, drop in ((-1, 0.0), (1, 0.02)):
        lung = wobble(_CHEST["lung"], 0.006, rng) * [side * wide, 1]
        lung[5:11, 1] += low + drop
        sides.append(plane.solid(lung, 0.06))
        for _ in range(7):
            flesh += _VESSEL * _vessels(plane, (side * 0.07, -0.06), rng.uniform(-1.3, 1.3), side, rng)
    lungs = np.maximum(*sides)
    flesh = flesh - 0.62 * lungs * (1 + 0.06 * coloured_noise(plane.shape, 2.0, rng))
    flesh += 0.15 * plane.solid([(-0.05, -0.4), (0.05, -0.4), (0.06, 0.3), (-0.06, 0.3)], 0.05)
    heart = wobble(_CHEST["heart"], 0.006, rng) * rng.uniform(0.9, 1.2)
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
        bones += _RIB * plane.tube(wobble(_CHEST["clavicle"], 0.004, rng) * [side, 1], 0.014, wall=0.25)
        bones += 0.3 * _BONE * plane.solid(wobble(_CHEST["scapula"], 0.006, rng) * [side, 1], 0.03)
        bones += 0.7 * _BONE * plane.ball((side * 0.41, -0.33), (0.05, 0.052))
        bones += 0.5 * _RIB * plane.tube([(side * 0.42, -0.3), (side * 0.45, -0.1), (side * 0.47, 0.1)], 0.024)
    return bones


def _lateral(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each; the sternum is on the left."""
    flesh = 1.05 * plane.solid(wobble(_SIDE_CHEST["torso"], 0.006, rng), 0.2)
    lungs = plane.solid(wobble(_SIDE_CHEST["lung"], 0.008, rng), 0.07)
    flesh = flesh - 0.68 * lungs * (1 + 0.06 * coloured_noise(plane.shape, 2.0, rng))
    for _ in range(10):
        way = rng.uniform(-np.pi, np.pi)
        flesh += _VESSEL * _vessels(plane, (0.02, -0.07), way, 1, rng)
    flesh += 0.4 * plane.solid(wobble(_SIDE_CHEST["heart"], 0.008, rng), 0.08)
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
    """Chord through a vessel and its branches, float32 `[H, W]`, which end at a radius below .002.

    The direction `way` is in radians, 0 to the side; `side` is 1 to the right and -1 to the left.
    """
    long = rng.uniform(6, 12) * radius
    end = (start[0] + side * long * float(np.cos(way)), start[1] + long * float(np.sin(way)))
    chord = plane.tube([start, end], radius, wall=0.9, filling=1.0)
    if radius > 0.002:
        for turn in (rng.uniform(0.1, 0.6), -rng.uniform(0.1, 0.6)):
            chord = np.maximum(chord, _vessels(plane, end, way + turn, side, rng, radius * rng.uniform(0.62, 0.78)))
    return chord


_LATERAL_SKULL = 0.5  # share of the images
_VAULT, _TUBE, _TOOTH = 5.5, 9.0, 0.55


def draw_skull(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws a frontal or lateral skull, bone bright: float32 `[H, W]`, not clipped."""
    plane = Plane.draw(shape, (0.8, 1.05), rng)
    flesh, bones = (_lateral_skull if rng.random() < _LATERAL_SKULL else _frontal_skull)(plane, rng)
    bones = np.maximum(bones, 0) * (1 + 0.05 * coloured_noise(shape, 1.5, rng))
    return expose(cv2.GaussianBlur(flesh, (0, 0), 1.2), cv2.GaussianBlur(bones, (0, 0), 0.8), rng)


def _both(points: Points) -> np.ndarray:
    """Symmetric outline from its right half, which starts on the midline at the top."""
    return np.concatenate([np.asarray(points, float), mirror(points)])


def _frontal_skull(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each."""
    flesh = 0.75 * plane.solid(_both(wobble((*_SKULL["head"], *_SKULL["neck"]), 0.005, rng)), 0.15)
    bones = _VAULT * plane.shell(_both(wobble(_SKULL["cranium"], 0.006, rng)), 0.3, rng.uniform(0.015, 0.03))
    bones += 0.25 * plane.solid(_both(wobble(_SKULL["face"], 0.006, rng)), 0.06)
    spread, air = rng.uniform(0.95, 1.08), rng.uniform(0.8, 1.2)
    for side in (-1, 1):
        eye = (side * 0.112 * spread, 0.035)
        bones += 0.16 * plane.shell(_ring(eye, (0.082, 0.07)), 0.08, 0.012) / 0.05
        bones -= 0.2 * air * plane.solid(_ring(eye, (0.074, 0.062)), 0.05)
        ridge = [(side * 0.02, 0.07), (side * 0.1, 0.04), (side * 0.19, 0.06), (side * 0.26, 0.11)]
        bones += _TUBE * 0.8 * plane.tube(wobble(ridge, 0.006, rng), 0.028, wall=0.5)
        bones -= 0.24 * air * plane.solid(wobble(_SKULL["cheek_cavity"], 0.004, rng) * [side, 1], 0.03)
        cheek = [(side * 0.2, -0.03), (side * 0.2, 0.08), (side * 0.235, 0.11), (side * 0.16, 0.15)]
        bones += _TUBE * 0.6 * plane.tube(wobble(cheek, 0.004, rng), 0.014)
        bones -= 0.12 * plane.ball((side * 0.026, 0.16), (0.015, 0.035))
        bones += 0.25 * plane.ball((side * 0.25, 0.17), (0.025, 0.06))  # mastoid
    bones -= 0.22 * air * plane.solid(_both(wobble(_SKULL["nose"], 0.003, rng)), 0.025)
    bones += _TUBE * plane.tube(wobble([(0, 0.04), (0, 0.12), (0, 0.21)], 0.003, rng), 0.004)
    bones -= 0.15 * air * plane.solid(_both(wobble(_SKULL["brow_cavity"], 0.007, rng)), 0.02)
    right = wobble(_SKULL["jaw"], 0.004, rng)
    bones += _TUBE * plane.tube(np.concatenate([right, mirror(right)[1:]]), 0.034, wall=0.22)
    _add_teeth(bones, plane, [(x, 0.27 + 1.6 * x * x) for x in np.linspace(-0.1, 0.1, 11)], rng)
    _add_spine(bones, plane, (0.0, 0.3), 0.0, rng)
    return flesh, bones


def _lateral_skull(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation of flesh and of bones, float32 `[H, W]` each; the face is on the left."""
    flesh = 0.75 * plane.solid(wobble(_SIDE_SKULL["head"], 0.005, rng), 0.14)
    bones = _VAULT * plane.shell(wobble(_SIDE_SKULL["cranium"], 0.006, rng), 0.32, rng.uniform(0.015, 0.03))
    bones += 0.22 * plane.solid(wobble(_SIDE_SKULL["face"], 0.005, rng), 0.08)
    air = rng.uniform(0.8, 1.2)
    orbit, cheek = ((-0.26, 0.05), (0.05, 0.05)), ((-0.2, 0.17), (0.075, 0.055))
    brow, middle = ((-0.31, -0.05), (0.018, 0.04)), ((-0.1, 0.09), (0.04, 0.028))
    for centre, axes in (orbit, cheek, brow, middle):
        bones -= 0.2 * air * plane.solid(_ring(centre, axes), 0.03)
        bones += 0.1 * plane.shell(_ring(centre, axes), 0.05, 0.006) / 0.025
    base = [
        (-0.31, 0.015), (-0.2, 0.0), (-0.1, 0.035), (-0.085, 0.065), (-0.055, 0.065), (-0.045, 0.035), (0.06, 0.14),
    ]  # fmt: skip
    bones += _TUBE * plane.tube(wobble(base, 0.003, rng), 0.012)
    bones += 0.5 * plane.ball((0.05, 0.13), (0.07, 0.04), 0.2)
    for _ in range(25):  # air cells behind the ear
        spot = (float(rng.normal(0.12, 0.025)), float(rng.normal(0.17, 0.025)))
        bones -= 0.1 * plane.ball(spot, (0.009, 0.009))
    bones += _TUBE * 0.9 * plane.tube(wobble(_SIDE_SKULL["jaw"], 0.004, rng), 0.036, wall=0.22)
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
    """Adds upper and lower teeth along a row between them; some are missing, some have fillings."""
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
    """Adds cervical vertebrae from `start` downwards, tilted backwards by `slope`."""
    step = rng.uniform(0.055, 0.065)
    for number in range(8):
        centre = (start[0] + slope * number * step, start[1] + number * step)
        bones += 0.3 * plane.block(centre, (0.042, 0.024), slope)
        spine = (centre[0] + (0.06 if slope else 0), centre[1] + 0.015)
        bones += 0.2 * plane.ball(spine, (0.045, 0.012), 0.3 * bool(slope))
