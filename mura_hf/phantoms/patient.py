"""Solids in three dimensions: lofts, and bodies that melt several of them into one.

Coordinates are millimetres: x to the side, y along the limb (distal is negative: fingers point up, as on a film), z
towards the detector.

What varies from patient to patient, and the builder that lays it over every bone.
Growth plates: a child's long bone ends in an epiphysis of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

SAMPLES = 128
"""Places along a loft at which its section is stored."""


@dataclass(frozen=True)
class Loft:
    """A straight frame with an elliptic section that changes along it.

    Attributes:
        origin: float32 `[3]`, start of the axis in mm.
        frame: float32 `[3, 3]`, rows are the unit vectors across, across and along.
        length: In mm.
        table: float32 `[SAMPLES, 6]`: centre of the section (mm), half axes (mm), thickness of the wall (mm), share
            of the inside that is filled.
        ball: Whether it is an ellipsoid, with the half axes of the table's first row and half the length.
    """

    origin: np.ndarray
    frame: np.ndarray
    length: float
    table: np.ndarray
    ball: bool = False

    def point(self, share: float, across: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """A point of the axis, or beside it, in mm; `share` of the length from the start."""
        row = self.table[round(share * (SAMPLES - 1))]
        local = np.array([row[0] + across[0], row[1] + across[1], share * self.length])
        return self.origin + local @ self.frame

    @cached_property
    def extent(self) -> tuple[float, float]:
        """How far the sections reach from the axis on either side, in mm."""
        table = self.table
        return (
            float((np.abs(table[:, 0]) + table[:, 2]).max()),
            float((np.abs(table[:, 1]) + table[:, 3]).max()),
        )

    @cached_property
    def sphere(self) -> np.ndarray:
        """Centre and radius of a sphere around it, float32 `[4]`."""
        table = self.table
        along = (np.linspace(0, 1, len(table)) - 0.5) * self.length
        across = np.hypot(table[:, 0], table[:, 1]) + table[:, 2:4].max(1)
        middle = self.origin + self.frame[2] * self.length / 2
        return np.array([*middle, np.hypot(along, across).max()], np.float32)

    @cached_property
    def inverse(self) -> np.ndarray:
        """The table with inverse half axes, and the cosine of the surface's slope last, which is -1 for balls; float32
        `[SAMPLES, 7]`.
        """
        slope = np.diff(self.table[:, 2:4].mean(1)) * (len(self.table) - 1) / self.length
        cosine = np.maximum(1 / np.sqrt(1 + np.append(slope, slope[-1]) ** 2), 0.35)  # a cap's tip is no edge
        cosine = np.full(len(self.table), -1.0) if self.ball else cosine
        return np.column_stack([self.table[:, :2], 1 / self.table[:, 2:4], self.table[:, 4:6], cosine]).astype(
            np.float32
        )

    def corners(self, margin: float) -> np.ndarray:
        """Corners of a box around it in mm, float64 `[8, 3]`."""
        a, b = (reach + margin for reach in self.extent)
        local = np.array([[u, v, w] for u in (-a, a) for v in (-b, b) for w in (-margin, self.length + margin)])
        return self.origin + local @ self.frame

    def radius(self, share: float) -> float:
        """Mean half axis at a share of the length, in mm."""
        row = self.table[round(share * (SAMPLES - 1))]
        return float(row[2] + row[3]) / 2


@dataclass(frozen=True)
class Body:
    """Lofts melted into one solid.

    Attributes:
        name: Such as "radius".
        lofts: The first one gives the body its axis.
        melt: Over how many mm neighbouring lofts flow together.
        breakable: The stretch of the first loft, as shares of its length, where findings may sit; None for nowhere.
        joint: 0 or 1 where the start or the end of the first loft bears a joint that may wear; else None.
    """

    name: str
    lofts: tuple[Loft, ...]
    melt: float = 1.0
    breakable: tuple[float, float] | None = None
    joint: float | None = None

    @cached_property
    def stacked(self) -> tuple[np.ndarray, ...]:
        """Origins, frames, lengths, rows of the table a mm, tables and spheres of the lofts, as `integrate_body` takes
        them.
        """
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
        """The body turned by `rotation` about the origin, then shifted."""
        lofts = tuple(
            replace(
                loft,
                origin=(loft.origin @ rotation.T + shift).astype(np.float32),
                frame=(loft.frame @ rotation.T).astype(np.float32),
            )
            for loft in self.lofts
        )
        return replace(self, lofts=lofts)


def make_frame(start: np.ndarray, end: np.ndarray, turn: float = 0.0) -> np.ndarray:
    """Unit vectors of a loft from start to end; the first lies as near to x as it can, then turns about the axis."""
    along = (end - start) / np.linalg.norm(end - start)
    side = np.array([1.0, 0.0, 0.0]) if abs(along[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    first = side - along * (side @ along)
    first /= np.linalg.norm(first)
    second = np.cross(along, first)
    turned = np.cos(turn) * first + np.sin(turn) * second
    return np.stack([turned, np.cross(along, turned), along]).astype(np.float32)


def make_loft(
    start: Sequence[float] | np.ndarray,
    end: Sequence[float] | np.ndarray,
    sections: Sequence[tuple[float, ...]],
    *,
    wall: float | Sequence[float] = 0.6,
    filling: float | Sequence[float] = 1.0,
    caps: tuple[float, float] = (3.0, 3.0),
    turn: float = 0.0,
    bow: tuple[float, float] = (0.0, 0.0),
    wobble: np.ndarray | None = None,
) -> Loft:
    """Builds a loft.

    Args:
        start: Start of the axis in mm.
        end: End of the axis in mm.
        sections: Rows (share, a, b[, cx, cy]) from start to end: half axes and centre in mm.
        wall: Thickness of the wall in mm, one value or one a section.
        filling: Share of the inside that is filled, likewise.
        caps: Over how many mm either end is rounded; 0 leaves it open.
        turn: Of the section about the axis in radians.
        bow: How far the middle lies off the straight line, in mm.
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
    centre: Sequence[float] | np.ndarray,
    radii: Sequence[float] | np.ndarray,
    *,
    along: Sequence[float] = (0.0, 1.0, 0.0),
    wall: float = 0.6,
    filling: float = 1.0,
) -> Loft:
    """An ellipsoid with half axes (across, across, along) in mm, its long axis along a direction."""
    direction = np.asarray(along, float)
    direction /= np.linalg.norm(direction)
    middle, reach = np.asarray(centre, float), direction * radii[2]
    rows = [(0.0, radii[0], radii[1]), (1.0, radii[0], radii[1])]
    loft = make_loft(middle - reach, middle + reach, rows, wall=wall, filling=filling, caps=(0.0, 0.0))
    return replace(loft, ball=True)


@dataclass(frozen=True)
class Patient:
    """One patient's make.

    Attributes:
        age: "child", "adult" or "elder".
        size: Against the adult lengths that the anatomy is written in.
        build: Breadth of bones against their length.
        wall: Thickness of cortical bone against an adult's.
        density: Filling of cancellous bone against an adult's.
        flesh: Thickness of soft tissue against an adult's.
    """

    age: str
    size: float
    build: float
    wall: float
    density: float
    flesh: float


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draws a patient; children are a sixth, elders a quarter."""
    age = str(rng.choice(["child", "adult", "elder"], p=[0.16, 0.59, 0.25]))
    size = {"child": rng.uniform(0.62, 0.85), "adult": rng.normal(1.0, 0.05), "elder": rng.normal(0.97, 0.05)}[age]
    wall = {"child": rng.uniform(0.75, 0.95), "adult": rng.normal(1.0, 0.1), "elder": rng.uniform(0.55, 0.85)}[age]
    density = {"child": rng.uniform(0.85, 1.1), "adult": rng.normal(1.0, 0.12), "elder": rng.uniform(0.5, 0.85)}[age]
    return Patient(
        age,
        float(size),
        float(rng.normal(1.0, 0.06)),
        float(max(wall, 0.5)),
        float(density),
        float(rng.uniform(0.85, 1.3)),
    )


@dataclass
class BodyBuilder:
    """Collects the bodies of one patient; every bone gets its own wobble, so that no two are alike."""

    patient: Patient
    rng: np.random.Generator
    bones: list[Body] = field(default_factory=list)
    flesh: list[Loft] = field(default_factory=list)
    loose: list[tuple[int, ...]] = field(default_factory=list)
    lung: Body | None = None

    def _wobble(self, amount: float) -> np.ndarray:
        t = np.linspace(0, 1, SAMPLES)
        waves = [
            self.rng.normal(0, amount / k) * np.cos(np.pi * k * t + self.rng.uniform(0, 6.3)) for k in (1, 2, 3, 5, 8)
        ]
        return np.sum(waves, 0)

    def loft(
        self,
        start: Sequence[float] | np.ndarray,
        end: Sequence[float] | np.ndarray,
        sections: Sequence[tuple[float, ...]],
        *,
        wall: float | Sequence[float],
        filling: float | Sequence[float] = 1.0,
        caps: tuple[float, float] = (3.0, 3.0),
        bow: tuple[float, float] = (0.0, 0.0),
        turn: float = 0.0,
        wobble: float = 0.025,
    ) -> Loft:
        """`make_loft` with this patient's build, walls and density."""
        build, make = self.patient.build * self.rng.normal(1, 0.03), self.patient
        rows = [(row[0], row[1] * build, row[2] * build, *row[3:]) for row in sections]
        return make_loft(
            start,
            end,
            rows,
            wall=list(np.broadcast_to(wall, len(rows)) * make.wall),
            filling=list(np.broadcast_to(filling, len(rows)) * make.density),
            caps=caps,
            turn=turn,
            bow=bow,
            wobble=self._wobble(wobble),
        )

    def ball(
        self,
        centre: Sequence[float] | np.ndarray,
        radii: Sequence[float] | np.ndarray,
        *,
        along: Sequence[float] = (0.0, 1.0, 0.0),
        wall: float = 0.55,
        filling: float = 1.0,
    ) -> Loft:
        """`make_ball` with this patient's build, walls and density, each a little its own."""
        radii = tuple(float(radius * self.patient.build * self.rng.normal(1, 0.05)) for radius in radii)
        return make_ball(
            centre, radii, along=along, wall=wall * self.patient.wall, filling=filling * self.patient.density
        )

    def bone(
        self,
        name: str,
        *lofts: Loft,
        melt: float = 1.5,
        breakable: tuple[float, float] | None = None,
        joint: float | None = None,
    ) -> int:
        """Adds a bone and returns its index."""
        self.bones.append(Body(name, lofts, melt, breakable, joint))
        return len(self.bones) - 1

    def skin(self, points: Sequence[tuple[float, ...]], wall: float = 3.0) -> None:
        """Adds flesh through points (x, y, z, a, b), a wall of fat around muscle."""
        rows = np.array(points, float)
        grow = self.patient.flesh**0.5 * self.rng.normal(1, 0.03)
        start, end = rows[0, :3], rows[-1, :3]
        along = (end - start) / np.linalg.norm(end - start)
        length = np.linalg.norm(end - start)
        shares = (rows[:, :3] - start) @ along / length
        loft = make_loft(start, end, [(0, 1, 1), (1, 1, 1)], caps=(0, 0))
        offsets = (rows[:, :3] - start - shares[:, None] * length * along) @ loft.frame.T
        sections = [
            (s, a * grow, b * grow, u, v)
            for s, a, b, (u, v, _) in zip(shares, rows[:, 3], rows[:, 4], offsets, strict=True)
        ]
        fat = wall * self.patient.flesh * self.rng.uniform(0.6, 1.5)
        self.flesh.append(
            make_loft(start, end, sections, wall=fat, caps=(min(8.0, rows[0, 3]), min(8.0, rows[-1, 3])))
        )


_GAP_MM = 1.4


def add_growth_plate(build: BodyBuilder, index: int, *, at_start: bool, thickness: float) -> None:
    """Cuts a bone near one end and adds its epiphysis behind a gap of cartilage.

    Args:
        build: Holds the bone.
        index: The bone; it keeps its place.
        at_start: Whether the plate lies at the start of the bone's axis.
        thickness: Of the epiphysis in mm.
    """
    bone = build.bones[index]
    shaft = bone.lofts[0]
    cut = thickness + _GAP_MM * build.patient.size
    share = cut / shaft.length
    places = np.linspace(0, 1, len(shaft.table))
    rows = np.linspace(share if at_start else 0, 1 if at_start else 1 - share, len(places))
    table = np.stack([np.interp(rows, places, column) for column in shaft.table.T], 1)
    inwards = (places if at_start else 1 - places) * (shaft.length - cut)
    table[:, 2:4] *= np.sqrt(1 - np.clip(1 - inwards / 1.5, 0, 0.95) ** 2)[:, None]
    start = shaft.origin + shaft.frame[2] * (cut if at_start else 0)
    metaphysis = replace(
        shaft, origin=start.astype(np.float32), length=shaft.length - cut, table=table.astype(np.float32)
    )
    row = shaft.table[int((share if at_start else 1 - share) * (len(places) - 1))]
    away = thickness * 0.5 if at_start else shaft.length - thickness * 0.5
    centre = shaft.origin + shaft.frame[2] * away + row[0] * shaft.frame[0] + row[1] * shaft.frame[1]
    kept = [loft for loft in bone.lofts[1:] if np.linalg.norm(loft.point(0.5) - centre) > 2.5 * thickness + row[2]]
    build.bones[index] = replace(bone, lofts=(metaphysis, *kept))
    radii = (float(row[2]) * 0.94, float(row[3]) * 0.94, thickness * 0.55)
    epiphysis = make_ball(centre, radii, along=tuple(shaft.frame[2]), wall=0.45, filling=1.2)
    build.bone(f"epiphysis of the {bone.name}", epiphysis)
