"""What varies from patient to patient, and the builder that applies it to every bone."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .solids import SAMPLES, Body, Loft, make_ball, make_loft


@dataclass(frozen=True)
class Patient:
    """Properties of one patient, relative to an average adult.

    Attributes:
        age: "child", "adult" or "elder".
        size: Length of bones.
        build: Width of bones relative to their length.
        wall: Thickness of cortical bone.
        density: Filling of cancellous bone.
        flesh: Thickness of soft tissue.
    """

    age: str
    size: float
    build: float
    wall: float
    density: float
    flesh: float


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draws a patient: 16 % are children and 25 % elders."""
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
    """Collects the bodies of one patient. Every bone gets random deviations, so that no two are equal."""

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
        """`make_ball` with this patient's build, walls and density, and random deviations."""
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
        """Adds flesh along points (x, y, z, a, b): a wall of fat around muscle."""
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


_GAP_MM = 1.4  # cartilage of a growth plate


def add_growth_plate(build: BodyBuilder, index: int, *, at_start: bool, thickness: float) -> None:
    """Cuts a child's long bone near one end and adds its epiphysis behind a gap of cartilage.

    Args:
        build: Builder with the bone.
        index: Index of the bone, which it keeps.
        at_start: Whether the plate is at the start of the bone's axis.
        thickness: Thickness of the epiphysis in mm.
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
