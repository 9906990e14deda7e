"""What varies from patient to patient, and the builder that lays it over every bone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .bodies import SAMPLES, Body, Loft, make_ball, make_loft


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
