"""Solids in space (lofts, ellipsoids, and bodies that blend them), and the diverging beam that they are in.

Coordinates are in mm: x to the side, y along the limb (negative is distal, because fingers point up on a film), z
towards the detector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

Vector = Sequence[float] | np.ndarray
SAMPLES = 128
"""Positions along a loft at which its cross-section is stored."""


@dataclass(frozen=True)
class Loft:
    """A straight axis with an elliptic cross-section that changes along it."""

    origin: np.ndarray  # float32 `[3]`, start of the axis in mm
    frame: np.ndarray  # float32 `[3, 3]`, unit vectors across, across and along, as rows
    length: float  # length in mm
    # float32 `[SAMPLES, 6]`: centre of the section (2), half axes (2) and wall thickness, all in mm, and the
    # filled share of the inside
    table: np.ndarray
    ball: bool = False  # whether it is an ellipsoid with the half axes of the first row and half the length

    def point(self, share: float, across: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """A point on the axis, or `across` beside it, at a share of the length; in mm."""
        row = self.table[round(share * (SAMPLES - 1))]
        local = np.array([row[0] + across[0], row[1] + across[1], share * self.length])
        return self.origin + local @ self.frame

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Largest reach of the sections from the axis in both directions, in mm."""
        a, b = (np.abs(self.table[:, :2]) + self.table[:, 2:4]).max(0)
        return float(a), float(b)

    @cached_property
    def sphere(self) -> np.ndarray:
        """Centre and radius of a bounding sphere, float32 `[4]`."""
        table = self.table
        along = (np.linspace(0, 1, len(table)) - 0.5) * self.length
        across = np.hypot(table[:, 0], table[:, 1]) + table[:, 2:4].max(1)
        middle = self.origin + self.frame[2] * self.length / 2
        return np.array([*middle, np.hypot(along, across).max()], np.float32)

    @cached_property
    def inverse(self) -> np.ndarray:
        """The table with inverse half axes, and the cosine of the slope (-1 for balls), float32 `[SAMPLES, 7]`."""
        slope = np.diff(self.table[:, 2:4].mean(1)) * (len(self.table) - 1) / self.length
        cosine = np.maximum(1 / np.sqrt(1 + np.append(slope, slope[-1]) ** 2), 0.35)  # the tip of a cap is not an edge
        cosine = np.full(len(self.table), -1.0) if self.ball else cosine
        columns = [self.table[:, :2], 1 / self.table[:, 2:4], self.table[:, 4:6], cosine]
        return np.column_stack(columns).astype(np.float32)

    def corners(self, margin: float) -> np.ndarray:
        """Corners of a bounding box in mm, float64 `[8, 3]`."""
        a, b = (reach + margin for reach in self.extent)
        local = np.array([[u, v, w] for u in (-a, a) for v in (-b, b) for w in (-margin, self.length + margin)])
        return self.origin + local @ self.frame

    def radius(self, share: float) -> float:
        """Mean half axis at a share of the length, in mm."""
        row = self.table[round(share * (SAMPLES - 1))]
        return float(row[2] + row[3]) / 2


@dataclass(frozen=True)
class Body:
    """Lofts blended into one solid."""

    name: str  # for example "radius"
    lofts: tuple[Loft, ...]  # the first one defines the axis of the body
    melt: float = 1.0  # width in mm over which neighbouring lofts blend
    # Section of the first loft, as shares of its length, where findings may be; None for nowhere
    breakable: tuple[float, float] | None = None
    # 0 or 1 if the start or the end of the first loft has a joint that may degenerate; else None
    joint: float | None = None

    @cached_property
    def stacked(self) -> tuple[np.ndarray, ...]:
        """Origins, frames, lengths, table rows per mm, tables and spheres of the lofts, for `integrate_body`."""
        lofts = self.lofts
        return (
            np.stack([loft.origin for loft in lofts]),
            np.stack([loft.frame for loft in lofts]),
            np.array([loft.length for loft in lofts], np.float32),
            np.array([(len(loft.table) - 1) / loft.length for loft in lofts], np.float32),
            np.stack([loft.inverse for loft in lofts]),
            np.stack([loft.sphere for loft in lofts]),
        )

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> "Body":
        """Returns the body rotated about the origin, then shifted."""
        lofts = []
        for loft in self.lofts:
            origin, frame = loft.origin @ rotation.T + shift, loft.frame @ rotation.T
            lofts.append(replace(loft, origin=origin.astype(np.float32), frame=frame.astype(np.float32)))
        return replace(self, lofts=tuple(lofts))


def make_frame(start: np.ndarray, end: np.ndarray, turn: float = 0.0) -> np.ndarray:
    """Unit vectors of a loft from start to end. The first is as close to x as possible, rotated by `turn` radians."""
    along = (end - start) / np.linalg.norm(end - start)
    side = np.array([1.0, 0.0, 0.0]) if abs(along[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    first = side - along * (side @ along)
    first /= np.linalg.norm(first)
    second = np.cross(along, first)
    turned = np.cos(turn) * first + np.sin(turn) * second
    return np.stack([turned, np.cross(along, turned), along]).astype(np.float32)


def make_loft(
    start: Vector,
    end: Vector,
    sections: Sequence[tuple[float, ...]],
    *,
    wall: float | Sequence[float] = 0.6,
    filling: float | Sequence[float] = 1.0,
    caps: tuple[float, float] = (3.0, 3.0),
    turn: float = 0.0,
    bow: tuple[float, float] = (0.0, 0.0),
    wobble: np.ndarray | None = None,
) -> Loft:
    """Builds a loft from start to end, in mm.

    Args:
        sections: Rows (share, a, b[, cx, cy]) from start to end: half axes and centre in mm.
        wall, filling: Wall thickness in mm and filled share of the inside, one value or one per section.
        caps: Length in mm over which each end is rounded; 0 leaves it open.
        turn: Rotation of the section about the axis in radians.
        bow: Offset of the middle from the straight line in mm.
        wobble: float `[SAMPLES]`, relative change of the half axes.
    """
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = float(np.linalg.norm(end - start))
    rows = np.array([(*row, 0.0, 0.0)[:5] for row in sections], float)
    t = np.linspace(0.0, 1.0, SAMPLES)
    columns = [rows[:, 3], rows[:, 4], rows[:, 1], rows[:, 2]]
    columns += [np.broadcast_to(np.asarray(values, float), len(rows)) for values in (wall, filling)]
    knots = np.stack(columns, 1)
    if len(rows) == 2:
        table = knots[0] + t[:, None] * (knots[1] - knots[0])
    else:
        table = PchipInterpolator(rows[:, 0], knots)(t)
    arch = np.sin(np.pi * t)[:, None]
    table[:, :2] += arch * np.array(bow)
    if wobble is not None:
        table[:, 2:4] *= 1.0 + wobble[:, None]
    for reach, distance in ((caps[0], t * length), (caps[1], (1 - t) * length)):
        if reach > 0:
            inside = np.clip(1 - distance / reach, 0, 1)
            table[:, 2:4] *= np.sqrt(np.maximum(1 - inside**2, 0.02))[:, None]
    return Loft(start.astype(np.float32), make_frame(start, end, turn), length, table.astype(np.float32))


def make_ball(
    centre: Vector, radii: Vector, *, along: Sequence[float] = (0.0, 1.0, 0.0), wall: float = 0.6, filling: float = 1.0
) -> Loft:
    """Builds an ellipsoid with half axes (across, across, along) in mm, where `along` gives the direction."""
    direction = np.asarray(along, float)
    direction /= np.linalg.norm(direction)
    middle, reach = np.asarray(centre, float), direction * radii[2]
    rows = [(0.0, radii[0], radii[1]), (1.0, radii[0], radii[1])]
    loft = make_loft(middle - reach, middle + reach, rows, wall=wall, filling=filling, caps=(0.0, 0.0))
    return replace(loft, ball=True)


FOCUS_MM = 1050.0
"""Distance from the focus of the tube to the detector in mm."""


def rotation(axis: int, angle: float) -> np.ndarray:
    """Right-handed rotation by `angle` radians about axis 0, 1 or 2."""
    c, s = np.cos(angle), np.sin(angle)
    turned = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turned[i, i], turned[i, j], turned[j, i], turned[j, j] = c, -s, s, c
    return turned


@dataclass(frozen=True)
class Camera:
    """One exposure."""

    pose: np.ndarray  # float64 `[3, 3]`, rotation from the patient's axes to the room's (z towards the detector)
    centre: np.ndarray  # float64 `[3]`, point of the patient in front of the centre of the image, in mm
    gap: float  # distance from that point to the detector in mm
    scale: float  # pixels per mm on the detector
    mirrored: bool  # whether this is the other side of the body
    shape: tuple[int, int]  # height and width of the image in pixels

    def project(self, points: np.ndarray) -> np.ndarray:
        """Projects points `[n, 3]` of the patient in mm to pixels `[n, 2]` (column, row)."""
        room = (np.asarray(points, float) - self.centre) @ self.pose.T
        enlarged = FOCUS_MM / (FOCUS_MM - self.gap + room[:, 2])
        across = -room[:, 0] if self.mirrored else room[:, 0]
        pixels = np.stack([across * enlarged, room[:, 1] * enlarged], 1) * self.scale
        return pixels + np.array([(self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2])

    def coarser(self, factor: float) -> "Camera":
        """Returns the same exposure on a detector with pixels about `factor` times as large."""
        shape = (max(1, round(self.shape[0] / factor)), max(1, round(self.shape[1] / factor)))
        return replace(self, scale=self.scale * max(shape) / max(self.shape), shape=shape)

    def rays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Focus, centre of pixel (0, 0), and steps to the right and down, in the patient's coordinates in mm."""
        pitch = 1 / self.scale
        sign = -1.0 if self.mirrored else 1.0
        corner = np.array([sign * (1 - self.shape[1]) / 2 * pitch, (1 - self.shape[0]) / 2 * pitch, self.gap])
        room = (np.array([0, 0, self.gap - FOCUS_MM]), corner)
        source, corner = (point @ self.pose + self.centre for point in room)
        right, down = np.array([sign * pitch, 0, 0]) @ self.pose, np.array([0, pitch, 0]) @ self.pose
        return tuple(value.astype(np.float32) for value in (source, corner, right, down))
