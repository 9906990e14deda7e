"""Bodies as flat layers of tissue: the thickness above each pixel, from an outline alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plane:
    """A film and the position of a body on it. Lengths are shares of the film's height; (0, 0) is the centre.

    Attributes:
        shape: Height and width in pixels.
        scale: Pixels per unit.
        turn: Rotation of the body in radians.
        shift: Shift of the body to the right and down.
        mirrored: Whether left and right are swapped.
    """

    shape: tuple[int, int]
    scale: float
    turn: float
    shift: tuple[float, float]
    mirrored: bool

    @classmethod
    def draw(cls, shape: tuple[int, int], zoom: tuple[float, float], rng: np.random.Generator) -> "Plane":
        """Draws a position: scaled by about `zoom`, slightly rotated and shifted."""
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
        """Share of every pixel inside of a smoothed outline, float32 `[H, W]` in [0, 1]."""
        canvas = np.zeros(self.shape, np.uint8)
        curve = np.round(self.pixels(smooth_curve(outline, closed=True)) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [curve], 255, cv2.LINE_AA, 4)
        return canvas / np.float32(255)

    def solid(self, outline: Points | np.ndarray, rim: float) -> np.ndarray:
        """Relative thickness of a body with a rounded rim, float32 `[H, W]` in [0, 1].

        Args:
            outline: Corners, which are smoothed.
            rim: Distance from the outline at which the body has its full thickness, in units.
        """
        depth = cv2.distanceTransform((self.inside(outline) > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        share = np.minimum(depth / (rim * self.scale), 1)
        return cv2.GaussianBlur(np.sqrt(1 - (1 - share) ** 2), (0, 0), max(0.02 * rim * self.scale, 0.5))

    def shell(self, outline: Points | np.ndarray, rim: float, wall: float) -> np.ndarray:
        """Chord through the wall of a hollow body in units, float32 `[H, W]`; longest at the rim.

        Args:
            outline: Corners, which are smoothed.
            rim: Radius of curvature of the rim, in units.
            wall: Thickness of the wall, in units.
        """
        depth = cv2.distanceTransform((self.inside(outline) > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / self.scale
        outer = np.minimum(depth, rim)
        inner = np.clip(depth - wall, 0, rim - wall)
        return _chord(rim, rim - outer) - _chord(rim - wall, rim - wall - inner)

    def tube(
        self, points: Points | np.ndarray, radius: float, *, wall: float = 0.3, filling: float = 0.4
    ) -> np.ndarray:
        """Chord through a bone along a path in units, float32 `[H, W]`.

        Args:
            points: Corners of the path, which are smoothed.
            radius: Radius in units.
            wall: Thickness of the wall as a share of the radius.
            filling: Density of the inside relative to the wall.
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


def smooth_curve(points: Points | np.ndarray, *, closed: bool) -> np.ndarray:
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


def mirror(points: Points | np.ndarray) -> np.ndarray:
    """Mirrors points at the midline, in the order that closes a shared outline."""
    return (np.asarray(points, float) * [-1, 1])[::-1]


def _chord(radius: float, off: np.ndarray) -> np.ndarray:
    """Half the chord of a circle at a distance from its centre, float32."""
    return np.sqrt(np.maximum(radius**2 - np.asarray(off, np.float32) ** 2, 0))
