"""Flat layers of tissue: how thick a body is above each pixel, from its outline alone.

The film of a foreign body part: exposed, marked and collimated as the phantoms of limbs are.
Chest-like phantoms: flat layers of tissue, from the front or the side.
Skull-like phantoms: flat layers of tissue, from the front or the side.
`render_unrelated`: pictures that are no radiographs of an upper limb, and ought to get no answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .body_parts import collimation, draw_marker
from .rendering import EXPOSURES, develop
from .unrelated_images import coloured_noise, draw_noise, draw_text, draw_texture

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plane:
    """A film and how a body lies on it; lengths are shares of the film's height, (0, 0) is its middle.

    Attributes:
        shape: Height and width in pixels.
        scale: Pixels a unit.
        turn: Radians by which the body is turned.
        shift: Right and down, by which it is moved.
        mirrored: Whether left and right are exchanged.
    """

    shape: tuple[int, int]
    scale: float
    turn: float
    shift: tuple[float, float]
    mirrored: bool

    @classmethod
    def draw(cls, shape: tuple[int, int], zoom: tuple[float, float], rng: np.random.Generator) -> "Plane":
        """A body that fills the film by about `zoom`, a little askew and off the middle."""
        shift = (float(rng.normal(0, 0.025)), float(rng.normal(0, 0.025)))
        scale = shape[0] * float(rng.uniform(*zoom))
        return cls(shape, scale, float(rng.normal(0, 0.05)), shift, bool(rng.random() < 0.5))

    def pixels(self, points: Points | np.ndarray) -> np.ndarray:
        """Columns and rows of points, float64 `[n, 2]`."""
        x, y = np.asarray(points, float).T
        x = -x if self.mirrored else x
        c, s = np.cos(self.turn), np.sin(self.turn)
        turned = np.stack([x * c - y * s + self.shift[0], x * s + y * c + self.shift[1]], 1)
        return turned * self.scale + np.array([self.shape[1] / 2, self.shape[0] / 2])

    def inside(self, outline: Points | np.ndarray) -> np.ndarray:
        """Share of every pixel inside an outline, smoothed, float32 `[H, W]` in [0, 1]."""
        canvas = np.zeros(self.shape, np.uint8)
        curve = np.round(self.pixels(smooth_curve(outline, closed=True)) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [curve], 255, cv2.LINE_AA, 4)
        return canvas / np.float32(255)

    def solid(self, outline: Points | np.ndarray, rim: float) -> np.ndarray:
        """Thickness of a body with a rounded rim, in shares of its greatest one, float32 `[H, W]` in [0, 1].

        Args:
            outline: Its corners, which are smoothed.
            rim: How far from the outline the body has its full thickness, in units.
        """
        depth = cv2.distanceTransform((self.inside(outline) > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        share = np.minimum(depth / (rim * self.scale), 1)
        return cv2.GaussianBlur(np.sqrt(1 - (1 - share) ** 2), (0, 0), max(0.02 * rim * self.scale, 0.5))

    def shell(self, outline: Points | np.ndarray, rim: float, wall: float) -> np.ndarray:
        """Chord through the wall of a hollow body, in units, float32 `[H, W]`: bright at its rim.

        Args:
            outline: As for `solid`.
            rim: Radius of the rim's curvature, in units.
            wall: Thickness of the wall, in units.
        """
        depth = cv2.distanceTransform((self.inside(outline) > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / self.scale
        outer = np.minimum(depth, rim)
        inner = np.clip(depth - wall, 0, rim - wall)
        return _chord(rim, rim - outer) - _chord(rim - wall, rim - wall - inner)

    def tube(
        self, points: Points | np.ndarray, radius: float, *, wall: float = 0.3, filling: float = 0.4
    ) -> np.ndarray:
        """Bone along a path: chord through its dense wall and its lighter inside, in units, float32 `[H, W]`.

        Args:
            points: The path's corners, which are smoothed.
            radius: In units.
            wall: Thickness of the wall, in shares of the radius.
            filling: Density of the inside, in shares of the wall's.
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
        """Thickness of an ellipsoid in shares of its greatest one, float32 `[H, W]` in [0, 1]."""
        thickness = np.zeros(self.shape, np.float32)
        window, u, v = self._around(centre, max(axes), lean)
        thickness[window] = np.sqrt(np.maximum(1 - (u / axes[0]) ** 2 - (v / axes[1]) ** 2, 0))
        return thickness

    def block(self, centre: tuple[float, float], half: tuple[float, float], lean: float = 0.0) -> np.ndarray:
        """A box with rounded corners and a dense rim (a vertebra, a tooth), float32 `[H, W]` in [0, 1]."""
        thickness = np.zeros(self.shape, np.float32)
        window, u, v = self._around(centre, sum(half), lean)
        edge = (np.abs(u / half[0]) ** 5 + np.abs(v / half[1]) ** 5) ** 0.2  # 1 at the surface
        thickness[window] = np.clip((1 - edge) * 12, 0, 1) * (0.7 + 0.3 * np.clip((edge - 0.7) * 6, 0, 1))
        return thickness

    def _around(
        self, centre: tuple[float, float], reach: float, lean: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """Rows and columns within `reach` units of a centre, and distances from there in units along axes that lean
        by `lean` radians.
        """
        column, row = self.pixels([centre])[0]
        window = self._window(np.array([[column, row]]), reach)
        x = (np.arange(window[1].start, window[1].stop) - column)[None] / self.scale
        y = (np.arange(window[0].start, window[0].stop) - row)[:, None] / self.scale
        angle = self.turn + (-lean if self.mirrored else lean)
        return window, x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)

    def _window(self, pixels: np.ndarray, reach: float) -> tuple[slice, slice]:
        """Rows and columns of the film that lie within `reach` units of some pixels; empty off the film."""
        low = np.floor(pixels.min(0) - reach * self.scale - 1).astype(int)
        high = np.ceil(pixels.max(0) + reach * self.scale + 2).astype(int)
        (left, top), (right, bottom) = np.maximum(low, 0), np.minimum(high, self.shape[::-1])
        return slice(int(top), max(int(bottom), int(top))), slice(int(left), max(int(right), int(left)))


def smooth_curve(points: Points | np.ndarray, *, closed: bool) -> np.ndarray:
    """Cuts corners four times over (Chaikin, 1974), float64 `[n, 2]`."""
    curve = np.asarray(points, float)
    for _ in range(4):
        ahead = np.roll(curve, -1, 0) if closed else curve[1:]
        here = curve if closed else curve[:-1]
        cut = np.stack([0.75 * here + 0.25 * ahead, 0.25 * here + 0.75 * ahead], 1).reshape(-1, 2)
        curve = cut if closed else np.concatenate([curve[:1], cut, curve[-1:]])
    return curve


def wobble(points: Points, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Points, each moved at random: no two patients are alike."""
    return np.asarray(points, float) + rng.normal(0, deviation, (len(points), 2))


def mirror(points: Points | np.ndarray) -> np.ndarray:
    """The same on the other side of the midline, in the order that closes a shared outline."""
    return (np.asarray(points, float) * [-1, 1])[::-1]


def _chord(radius: float, off: np.ndarray) -> np.ndarray:
    """Half the chord through a circle at a distance from its centre, float32."""
    return np.sqrt(np.maximum(radius**2 - np.asarray(off, np.float32) ** 2, 0))


_UNDEREXPOSED, _MARKED = 0.1, 0.5  # shares of films


def expose(flesh: np.ndarray, bones: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Develops layers of tissue.

    Args:
        flesh: Attenuation of all that is no bone, float32 `[H, W]`.
        bones: Attenuation of bones and metal, float32 `[H, W]`.
        rng: What exposure, noise, marker and blades are drawn from.

    Returns:
        float32 `[H, W]`, bone bright, not clipped.
    """
    flesh = np.maximum(flesh, 0).astype(np.float32)
    normal = flesh + bones.astype(np.float32)
    total = normal
    if rng.random() < _MARKED:
        total = normal + draw_marker(flesh.shape, str(rng.choice(["L", "R"])), rng)
    exposure = EXPOSURES["underexposed" if rng.random() < _UNDEREXPOSED else "standard"]
    return develop(total, normal, flesh, exposure, rng, rng) * collimation(flesh.shape, rng)


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


_LATERAL_SKULL = 0.5  # share of the pictures
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
    flesh, bones = (_lateral_skull if rng.random() < _LATERAL_SKULL else _frontal_skull)(plane, rng)
    bones = np.maximum(bones, 0) * (1 + 0.05 * coloured_noise(shape, 1.5, rng))
    return expose(cv2.GaussianBlur(flesh, (0, 0), 1.2), cv2.GaussianBlur(bones, (0, 0), 0.8), rng)


def _both(points: Points | np.ndarray) -> np.ndarray:
    """A symmetric outline from its right half, which starts on the midline at the top."""
    return np.concatenate([np.asarray(points, float), mirror(points)])


def _frontal_skull(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
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


def _lateral_skull(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
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


_DRAW: dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]] = {
    "noise": draw_noise,
    "text": draw_text,
    "texture": draw_texture,
    "chest": draw_chest,
    "skull": draw_skull,
}

UNRELATED_KINDS = tuple(_DRAW)
"""Kinds of pictures that are no radiographs of an upper limb."""

_SIDES = (0.8, 1.25)  # of the size asked for, on the long side
_SHORT = (0.72, 1.0)  # of the long side
_STREAM = 30  # apart from the streams of `render_phantom`


def render_unrelated(seed: int, kind: str, size: int = 512) -> np.ndarray:
    """Draws one picture of a kind that no checkpoint of the package can judge.

    Noise: white, coloured or of salt and pepper. Text: pages of reports and tables, dark on white or white on black.
    Texture: clouds, wood, fur, bricks, water, pebbles and heaps of shaded things. Chest and skull: phantoms of these,
    flat layers of tissue instead of bodies in space, exposed as the phantoms of limbs are.

    Args:
        seed: 0 or above; the same seed gives the same picture.
        kind: One of `UNRELATED_KINDS`.
        size: Pixels on the long side, about: it is drawn between .8 and 1.25 times as many.

    Returns:
        uint8 `[H, W]`.

    Raises:
        ValueError: If the kind is unknown, the seed negative, or the size below 64.
    """
    if kind not in UNRELATED_KINDS:
        raise ValueError(f"unknown kind {kind!r} of foreign picture; there are {', '.join(UNRELATED_KINDS)}")
    if seed < 0 or size < 64:
        raise ValueError(f"seed must be 0 or above and size 64 or above, not {seed} and {size}")
    rng = np.random.default_rng([seed, _STREAM, UNRELATED_KINDS.index(kind)])
    long = round(size * rng.uniform(*_SIDES))
    short = round(long * rng.uniform(*_SHORT))
    picture = _DRAW[kind]((long, short) if rng.random() < 0.6 else (short, long), rng)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
