"""Bones and soft tissue as tapered, hollow tubes in three dimensions.

Coordinates are millimetres: x to the side, y along the limb (distal is negative: fingers point up, as on a film), z
towards the detector.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tube:
    """A bone, or a piece of soft tissue, as a tube around a curved axis.

    Attributes:
        name: What it is, such as "radius".
        axis: float64 `[n, 3]`, points of the axis in mm.
        radii: float64 `[m]`, outer radius in mm at `m` places spread evenly from start to end.
        cortex: float64 `[m]`, thickness of the dense wall in mm at the same places (0 for soft tissue).
        can_break: Whether a finding may be placed on it.
        visible: The stretch of the axis, as shares of its length, that lies well inside the picture.
    """

    name: str
    axis: np.ndarray
    radii: np.ndarray
    cortex: np.ndarray
    can_break: bool = False
    visible: tuple[float, float] = (0.25, 0.75)


@dataclass(frozen=True)
class Anatomy:
    """Bones and soft tissue of one patient's body part, and the field that a film of it covers (mm: x0, y0, x1,
    y1).
    """

    body_part: str
    bones: tuple[Tube, ...]
    soft: tuple[Tube, ...]
    field: tuple[float, float, float, float]


class SkeletonBuilder:
    """Collects tubes of one patient and draws their individual shape from one generator."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.bones: list[Tube] = []
        self.soft: list[Tube] = []

    def bone(
        self,
        name: str,
        start: tuple[float, float, float],
        end: tuple[float, float, float],
        shaft: float,
        start_radius: float,
        end_radius: float,
        *,
        bow: float = 0.0,
        cortex: float = 0.36,
        flare: float = 0.14,
        can_break: bool = False,
        visible: tuple[float, float] = (0.25, 0.75),
    ) -> None:
        """Adds a bone: radius `shaft` in the middle, widening over `flare` of its length to the radius of either
        end.
        """
        first, last = np.array(start, float), np.array(end, float)
        length = np.linalg.norm(last - first)
        t = np.linspace(0.0, 1.0, 9)
        side = np.array([1.0, 0.0, 0.35])
        bend = np.sin(np.pi * t) * (bow + self.rng.normal(0, 0.008)) * length
        axis = first + t[:, None] * (last - first) + side * bend[:, None]
        t = np.linspace(0.0, 1.0, 48)
        radii = shaft + (start_radius - shaft) * np.exp(-((t / flare) ** 2))
        radii = radii + (end_radius - shaft) * np.exp(-(((1 - t) / flare) ** 2))
        waves = sum(
            self.rng.normal(0, 0.02 / k) * np.cos(np.pi * k * t + self.rng.uniform(0, 6.3)) for k in (1, 2, 3, 5)
        )
        radii = radii * (1 + waves) * self.rng.normal(1, 0.05)
        wall = 0.45 + cortex * shaft * np.sin(np.pi * t) ** 0.7
        self.bones.append(Tube(name, axis, radii, np.minimum(wall, 0.8 * radii), can_break, visible))

    def block(self, name: str, centre: tuple[float, float, float], width: float, height: float) -> None:
        """Adds a short bone, such as a carpal: a stubby tube, slightly turned."""
        turn = self.rng.normal(0, 0.25)
        half = np.array([np.sin(turn), np.cos(turn), 0.0]) * max(height - width, 1.0) / 2
        jitter = self.rng.normal(0, 0.6, 3)
        middle = np.array(centre, float) + jitter
        start, end = middle - half, middle + half
        self.bone(name, tuple(start), tuple(end), width / 2, width / 2, width / 2 * 0.92, cortex=0.03)

    def flesh(self, *points: tuple[float, float, float, float]) -> None:
        """Adds soft tissue through points of (x, y, z, radius)."""
        knots = np.array(points, float)
        knots[:, 3] *= self.rng.normal(1, 0.06)
        steps = np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1)
        reached = np.concatenate([[0.0], np.cumsum(steps)])
        radii = np.interp(np.linspace(0, reached[-1], 48), reached, knots[:, 3])
        self.soft.append(Tube("soft tissue", knots[:, :3], radii, np.zeros(48)))

    def moved(self, point: tuple[float, float, float], angle: float, length: float) -> tuple[float, float, float]:
        """The point `length` mm from `point` in the x-y plane, `angle` degrees clockwise from distal."""
        turn = np.deg2rad(angle)
        return (point[0] + length * np.sin(turn), point[1] - length * np.cos(turn), point[2])
