"""One patient's bones and flesh: individual variation, and the bones of the arm, hand and shoulder girdle.

Lengths are round adult values in mm. The wrist's joint line is at y = 0. Radius and ulna extend from there up to the
elbow (y = `FOREARM`). The humerus extends from the elbow (y = 0) up to its head; callers move it where they need it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from .geometry import SAMPLES, Body, Loft, Vector, make_ball, make_loft


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
    values = size, rng.normal(1.0, 0.06), max(wall, 0.5), density, rng.uniform(0.85, 1.3)
    return Patient(age, *map(float, values))


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
        start: Vector,
        end: Vector,
        sections: Sequence[tuple[float, ...]],
        *,
        wall: float | Sequence[float],
        filling: float | Sequence[float] = 1.0,
        wobble: float = 0.025,
        **options: Any,
    ) -> Loft:
        """`make_loft` with this patient's build, walls and density."""
        build, make = self.patient.build * self.rng.normal(1, 0.03), self.patient
        rows = [(row[0], row[1] * build, row[2] * build, *row[3:]) for row in sections]
        wall = list(np.broadcast_to(wall, len(rows)) * make.wall)
        filling = list(np.broadcast_to(filling, len(rows)) * make.density)
        return make_loft(start, end, rows, wall=wall, filling=filling, wobble=self._wobble(wobble), **options)

    def ball(
        self,
        centre: Vector,
        radii: Vector,
        *,
        along: Sequence[float] = (0.0, 1.0, 0.0),
        wall: float = 0.55,
        filling: float = 1.0,
    ) -> Loft:
        """`make_ball` with this patient's build, walls and density, and random deviations."""
        radii = tuple(float(radius * self.patient.build * self.rng.normal(1, 0.05)) for radius in radii)
        wall, filling = wall * self.patient.wall, filling * self.patient.density
        return make_ball(centre, radii, along=along, wall=wall, filling=filling)

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
        caps = min(8.0, rows[0, 3]), min(8.0, rows[-1, 3])
        self.flesh.append(make_loft(start, end, sections, wall=fat, caps=caps))


_GAP_MM = 1.4  # cartilage of a growth plate


def add_growth_plate(build: BodyBuilder, index: int, *, at_start: bool, thickness: float) -> None:
    """Cuts a child's bone near one end and adds an epiphysis, `thickness` mm thick, behind a gap of cartilage."""
    if build.patient.age != "child":
        return
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
    start, table = start.astype(np.float32), table.astype(np.float32)
    metaphysis = replace(shaft, origin=start, length=shaft.length - cut, table=table)
    row = shaft.table[int((share if at_start else 1 - share) * (len(places) - 1))]
    away = thickness * 0.5 if at_start else shaft.length - thickness * 0.5
    centre = shaft.origin + shaft.frame[2] * away + row[0] * shaft.frame[0] + row[1] * shaft.frame[1]
    kept = [loft for loft in bone.lofts[1:] if np.linalg.norm(loft.point(0.5) - centre) > 2.5 * thickness + row[2]]
    build.bones[index] = replace(bone, lofts=(metaphysis, *kept))
    radii = (float(row[2]) * 0.94, float(row[3]) * 0.94, thickness * 0.55)
    epiphysis = make_ball(centre, radii, along=tuple(shaft.frame[2]), wall=0.45, filling=1.2)
    build.bone(f"epiphysis of the {bone.name}", epiphysis)


# Each ray from thumb to little finger: base of the metacarpal (x, y, z), direction in degrees, lengths of metacarpal
# and phalanges, radius of the metacarpal's shaft.
RAYS = (
    ("thumb", (-21.0, -25.0, 9.0), -40.0, (45.0, 31.0, 22.0), 4.7),
    ("index finger", (-12.0, -32.5, 0.0), -9.0, (66.0, 40.0, 23.0, 17.0), 4.1),
    ("middle finger", (-1.5, -33.0, -2.0), -1.0, (63.0, 44.0, 27.0, 18.0), 4.2),
    ("ring finger", (8.0, -31.0, -1.0), 7.0, (56.0, 41.0, 26.0, 18.0), 3.7),
    ("little finger", (16.0, -28.0, 2.0), 16.0, (52.0, 33.0, 18.0, 16.0), 3.5),
)
PARTS = ("metacarpal", "proximal phalanx", "middle phalanx", "distal phalanx")
_SLIMNESS = {"metacarpal": 1.0, "proximal phalanx": 0.95, "middle phalanx": 0.8, "distal phalanx": 0.62}

# Name, centre (x, y, z), half axes (across, deep, along), tilt in degrees, and a knob (x, y, radius) blended with it.
_CARPALS = (
    ("scaphoid", (-10.5, -10.0, 3.0), (4.8, 5.2, 9.6), -32, (-5.0, -6.5, 4.6)),
    ("lunate", (1.0, -8.0, 0.0), (5.8, 7.0, 6.6), 8, (0.5, -3.0, 4.6)),
    ("triquetrum", (11.0, -11.0, -2.5), (4.9, 5.6, 6.4), 28, (-2.0, -3.0, 4.0)),
    ("pisiform", (12.5, -9.0, 8.0), (3.6, 3.6, 4.2), 0, (0.0, 0.8, 3.0)),
    ("trapezium", (-18.0, -20.5, 5.0), (5.6, 5.6, 6.6), -35, (-2.6, -2.0, 4.4)),
    ("trapezoid", (-9.6, -23.0, 1.0), (4.2, 5.6, 5.4), -12, (0.4, -2.4, 3.8)),
    ("capitate", (-0.4, -20.5, 0.0), (5.2, 6.6, 9.6), 3, (0.6, -5.0, 6.0)),
    ("hamate", (9.8, -21.0, 1.0), (5.2, 6.0, 7.6), 14, (1.8, -3.6, 5.2)),
)

_WALL = ((0.45, 0.0), (0.5, 0.0), (0.0, 0.42), (0.0, 0.46), (0.0, 0.40), (0.5, 0.0), (0.45, 0.0))  # mm, and a radius
_FILLING = (1.15, 1.0, 0.35, 0.1, 0.3, 1.0, 1.15)


@dataclass(frozen=True)
class _Profile:
    """Shape of a bone of a ray, in radii of its shaft."""

    rows: tuple[tuple[float, float, float], ...]  # share of the length, half axes across and deep
    caps: tuple[float, float]  # rounding of the start in mm and of the end in radii
    filling: tuple[float, ...] = _FILLING
    bow: float = 0.0  # offset of the middle as a share of the length
    wobble: float = 0.025


_METACARPAL = _Profile(
    ((0, 1.62, 1.6), (0.08, 1.6, 1.62), (0.26, 1.05, 1.15), (0.5, 0.93, 1.02), (0.72, 1.05, 1.15), (0.9, 1.42, 1.5),
     (1, 1.42, 1.5)), caps=(2.6, 1.3), bow=-0.035
)  # fmt: skip
_PHALANX = _Profile(
    ((0, 1.72, 1.45), (0.07, 1.68, 1.42), (0.25, 1.12, 1.0), (0.55, 0.95, 0.82), (0.78, 1.0, 0.85), (0.93, 1.22, 1.05),
     (1, 1.2, 1.05)), caps=(2.0, 0.8), bow=-0.03
)  # fmt: skip
_TUFT = _Profile(
    ((0, 1.75, 1.45), (0.1, 1.7, 1.4), (0.35, 0.95, 0.85), (0.6, 0.8, 0.7), (0.8, 1.0, 0.75), (0.92, 1.3, 0.75),
     (1, 1.15, 0.6)), caps=(1.0, 0.9), filling=(1.15, 1.0, 0.5, 0.4, 0.6, 0.9, 0.9), wobble=0.04
)  # fmt: skip


def add_carpus(build: BodyBuilder) -> None:
    """Adds the eight carpal bones; small children lack those that ossify late."""
    size = build.patient.size
    late = ("pisiform", "trapezoid", "trapezium", "scaphoid") if build.patient.size < 0.72 else ()
    grown = 0.8 if build.patient.age == "child" else 1.0
    for name, centre, radii, degrees, knob in _CARPALS:
        if name in late:
            continue
        middle = np.array(centre) * size + build.rng.normal(0, 0.5, 3)
        turn = np.deg2rad(degrees + build.rng.normal(0, 8))
        along = np.array([np.sin(turn), -np.cos(turn), 0.15])
        axes = np.array(radii) * size * grown * 1.05
        # Several ellipsoids blend into a bone with flat faces rather than an egg.
        side = np.array([np.cos(turn), np.sin(turn), 0.0])
        balls = [(middle, axes, along)]
        for _ in range(3):  # random facets
            way = build.rng.normal(0, 1, 3)
            way /= np.linalg.norm(way)
            off = way * np.array([0.5, 0.42, 0.5]) * np.mean(axes)
            balls.append((middle + off, axes * build.rng.uniform(0.5, 0.68), along + way * 0.4))
        off = along * knob[1] * -0.25 * size + side * knob[0] * 0.6 * size
        balls.append((middle + off, np.full(3, knob[2] * size * grown), np.array([0.0, 1.0, 0.0])))
        off = -along * axes[2] * 0.35 - side * axes[0] * 0.3
        balls.append((middle + off, axes * np.array([0.8, 0.8, 0.55]), along))
        parts = [build.ball(at, radii, along=tuple(lean), wall=0.42, filling=1.35) for at, radii, lean in balls]
        build.bone(name, *parts, melt=2.2)


def _phalanx_or_metacarpal(
    build: BodyBuilder, part: str, name: str, start: np.ndarray, end: np.ndarray, r: float, *, breakable: bool
) -> int:
    """Adds one bone of a ray; `r` is the radius of its shaft in mm."""
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    side = np.array([-along[1], along[0], 0.0])
    side /= np.linalg.norm(side)
    profile = {"metacarpal": _METACARPAL, "distal phalanx": _TUFT}.get(part, _PHALANX)
    shaft = build.loft(
        start,
        end,
        [(t, a * r, b * r) for t, a, b in profile.rows],
        wall=[fixed + share * r for fixed, share in _WALL],
        filling=profile.filling,
        caps=(profile.caps[0], profile.caps[1] * r),
        bow=(0.0, profile.bow * length),
        wobble=profile.wobble,
    )
    if part == "metacarpal":
        knobs = [(end - along * r * 1.15, (1.42, 1.5, 1.3))]
    elif part == "distal phalanx":
        knobs = [(start + along * r * 0.5, (1.75, 1.3, 0.8))]
    else:  # two condyles
        knobs = [(end - along * r * 0.95 + side * sign * r * 0.55, (0.8, 1.1, 0.95)) for sign in (-1, 1)]
    balls = [
        build.ball(centre, np.array(radii) * r, along=tuple(along), wall=0.45, filling=1.1) for centre, radii in knobs
    ]
    limits = (0.2, 0.8) if breakable else None
    index = build.bone(f"{part} of the {name}", shaft, *balls, melt=0.35 * r, breakable=limits, joint=0.0)
    add_growth_plate(build, index, at_start=part != "metacarpal" or name == "thumb", thickness=r * 0.55)
    return index


def add_ray(
    build: BodyBuilder, number: int, *, breakable: bool, spread: float = 1.0, flexion: float = 0.0
) -> list[int]:
    """Adds a metacarpal with its phalanges and the flesh around them, and returns their indices."""
    name, base, angle, lengths, shaft = RAYS[number]
    size = build.patient.size
    angle = angle * spread + build.rng.normal(0, 2.0)
    point = np.array(base) * size
    parts = [part for part in PARTS if len(lengths) == 4 or part != "middle phalanx"]
    flesh = []
    indices: list[int] = []
    for order, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        r = shaft * _SLIMNESS[part] * size
        turn, bend = np.deg2rad(angle), np.deg2rad(flexion * order)
        way = np.array([np.sin(turn) * np.cos(bend), -np.cos(turn) * np.cos(bend), np.sin(bend)])
        end = point + way * length * size * build.rng.normal(1, 0.025)
        limited = breakable and part != "distal phalanx"
        indices.append(_phalanx_or_metacarpal(build, part, name, point, end, r, breakable=limited))
        if order > 0 or number == 0:
            flesh += [(*point, r * 2.5, r * 2.3), (*((point + end) / 2), r * 2.35, r * 2.2)]
        if part == "distal phalanx":
            flesh.append((*(end + way * 3.0 * size), r * 2.0, r * 1.7))
        point = end + way * 1.7 * size
        angle += build.rng.normal(0, 2.0)
    build.skin(flesh, wall=1.6)
    build.loose += [tuple(range(index, len(build.bones))) for index in indices[1:]]
    return indices


FOREARM = 243.0
_Part = tuple[Any, ...]  # of a bone, see `_make_parts`


def _shares(length: float, rows: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Sections whose positions are in mm from the start, with shares of the length instead."""
    return [(row[0] / length, *row[1:]) for row in rows]


# Name -> length, width of blends and thickness of a child's epiphysis (0 for none) in mm, and parts.
_LONG_BONES: dict[str, tuple[float, float, float, tuple[_Part, ...]]] = {
    "radius": (235.0, 4.5, 5.5, (
        ((-7, 0.5, 1), (-12, 235.5, 2), _shares(235.0, [
            (0, 13.2, 8.8), (3, 14.6, 9.8), (9, 13.6, 9.6), (20, 9.8, 7.8), (34, 7.2, 6.6), (90, 6.9, 6.0),
            (160, 7.2, 6.4), (198, 7.4, 7.0), (214, 6.3, 6.3), (222, 6.9, 6.8), (226, 9.6, 9.3), (235, 10.8, 10.4),
        ]), [0.7, 0.6, 0.6, 0.9, 1.6, 2.7, 2.7, 2.0, 1.5, 1.0, 0.8, 0.8],
         [1.25, 1.2, 1.15, 1.0, 0.6, 0.1, 0.1, 0.35, 0.6, 0.9, 1.1, 1.15], (4.0, 2.6), {"bow": (-5, 1.5)}),
        ((-14.6, 5.5, 1), (5.6, 7.0, 10.5), 0.7, {"along": (-0.2, -1.0, 0.0)}),  # styloid
        ((-8.0, 205, 4), (4.2, 4.2, 10), 1.2, {}),  # tuberosity
    )),
    "ulna": (262.0, 4.0, 4.5, (
        ((13.5, 3.0, -4), (9, 264, -10), _shares(262.0, [
            (0, 7.2, 7.0), (3, 8.0, 7.6), (8, 7.4, 7.0), (22, 5.2, 5.1), (60, 5.4, 5.2), (130, 6.4, 6.6),
            (190, 6.8, 7.4), (214, 7.6, 9.6), (228, 8.4, 8.4), (240, 8.6, 6.6), (252, 10.2, 8.8), (262, 8.6, 7.6),
        ]), [0.7, 0.7, 0.7, 1.3, 2.3, 2.8, 2.6, 1.7, 1.4, 1.3, 1.2, 1.2],
         [1.1, 1.1, 1.0, 0.5, 0.1, 0.1, 0.3, 0.8, 0.9, 1.0, 1.0, 1.0], (4.0, 6.0), {"bow": (2, -2)}),
        ((17.6, 3.5, -5), (2.8, 2.8, 6.5), 0.6, {"along": (0.15, -1.0, 0.0)}),  # styloid
        ((9, 224, 1.5), (7.5, 6, 9), 0.8, {"along": (0, -0.8, 0.6)}),  # coronoid
    )),
    "humerus": (304.0, 4.0, 0, (
        ((0, 3, 0), (6, 306, 0), _shares(304.0, [
            (0, 17, 6.5), (6, 21, 6.2), (15, 25, 6.0), (27, 22, 7.2), (46, 13.5, 8.6), (75, 10.6, 9.8),
            (150, 10.6, 11), (215, 11.2, 11.4), (255, 13.5, 13.2), (276, 17.5, 16.5), (292, 21, 20), (304, 19, 19),
        ]), [0.9, 0.9, 1.1, 1.4, 2.3, 3.4, 3.9, 3.7, 2.5, 1.4, 0.9, 0.8],
         [1.0, 0.9, 0.7, 0.7, 0.5, 0.15, 0.1, 0.15, 0.45, 0.85, 1.0, 1.0], (3, 9), {"bow": (2, -3)}),
        ((-12, 0, 3), (8.5, 9.5, 9.5), 0.8, {"filling": 1.1}),  # capitulum
        ((-6, 1, 1), (19, -1, 1), [(0, 7.5, 7.5), (0.45, 7.0, 7.0), (1, 11, 11)], 0.9, 1.1, (3, 3), {}),  # trochlea
        ((25, 12, -2), (5, 5, 7.5), 0.9, {"along": (0.5, -1, 0)}),  # medial epicondyle
        ((-21, 11, 0), (4, 5, 7), 0.9, {"along": (-0.35, -1, 0)}),  # lateral epicondyle
        ((17, 303, -3), (22.5, 22.5, 20), 0.8, {"along": (0.75, 0.66, -0.1), "filling": 1.1}),  # head
        ((-9, 300, 2), (8.0, 11, 15), 0.9, {"along": (0.15, 1, 0)}),  # greater tubercle
    )),
}  # fmt: skip
_SCAPULA: tuple[_Part, ...] = (
    ((14, -22, -16), (40, 106, -30), [(0, 14, 2.5, 8, 0), (0.2, 26, 1.6, 14, 0), (0.55, 18, 1.5, 6, 0), (1, 6, 3)],
     [0.8, 0.5, 0.5, 0.9], [0.8, 0.2, 0.2, 0.8], (3, 5), {"turn": 0.3}),
    ((-12, -24, -6), (-9, 16, -8), [(0, 5, 9), (0.5, 7.5, 14), (1, 5, 10)], 0.9, 1.1, (6, 6), {}),
    ((-6, 8, -9), (39, 104, -29), [(0, 7, 7), (0.5, 3.6, 4.5), (1, 5, 4)], 1.3, 0.5, (2, 4), {}),
    ((2, -25, -4), (-16, -14, 26), [(0, 7, 7), (0.5, 6.5, 6), (1, 5.5, 6)], 0.9, 0.8, (2, 5), {"bow": (0, 6)}),
    ((54, -10, -32), (-28, -44, -30), [(0, 2.2, 4), (0.5, 4.0, 7), (0.85, 5.5, 9), (1, 5.5, 9)], 0.9, 0.6, (2, 4), {}),
    ((-24, -43, -30), (-46, -38, -6), [(0, 8, 5), (1, 8, 4.2)], 1.0, 0.8, (3, 5), {}),
)  # fmt: skip
_CLAVICLE: _Part = (
    (-38, -43, -4), (110, -34, 18),
    [(0, 9, 4.6), (0.15, 7.5, 4.8, 0, -5), (0.45, 5.6, 5.6, 0, 3), (0.75, 6, 6.4, 0, 10), (1, 9, 9.5)],
    [0.9, 1.4, 2.3, 2.1, 1.1], [0.9, 0.6, 0.25, 0.4, 0.9], (3, 3), {"bow": (-6, 0)},
)  # fmt: skip


def _make_parts(build: BodyBuilder, parts: Sequence[_Part]) -> list[Loft]:
    """Makes parts of a bone at the patient's size.

    Balls are (centre, radii, wall, options of `BodyBuilder.ball`), others (start, end, sections, wall, filling, caps,
    options of `BodyBuilder.loft`).
    """
    s = build.patient.size

    def scaled(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(value * s for value in values)

    made = []
    for part in parts:
        if len(part) == 4:
            centre, radii, wall, options = part
            made.append(build.ball(scaled(centre), scaled(radii), wall=wall, **options))
            continue
        start, end, rows, wall, filling, caps, options = part
        sections = [(row[0], *scaled(row[1:])) for row in rows]
        options = {name: scaled(value) if name == "bow" else value for name, value in options.items()}
        options |= {"wall": wall, "filling": filling, "caps": scaled(caps)}
        made.append(build.loft(scaled(start), scaled(end), sections, **options))
    return made


def add_long_bone(
    build: BodyBuilder, name: str, stretch: tuple[float, float] | None, joint: float | None = None
) -> None:
    """Adds a radius, ulna or humerus; findings may be within `stretch`, in mm from its start."""
    length, melt, plate, parts = _LONG_BONES[name]
    s = build.patient.size
    breakable = stretch and (stretch[0] / length, stretch[1] / length)
    index = build.bone(name, *_make_parts(build, parts), melt=melt * s, breakable=breakable, joint=joint)
    if plate:
        add_growth_plate(build, index, at_start=True, thickness=plate * s)


def add_shoulder_girdle(build: BodyBuilder) -> None:
    """Adds scapula, clavicle and upper ribs for a humeral head near (-40, -8, 0), with y pointing down."""
    s = build.patient.size
    build.bone("scapula", *_make_parts(build, _SCAPULA), melt=4 * s)
    build.bone("clavicle", *_make_parts(build, [_CLAVICLE]), breakable=(0.12, 0.72))
    for number in range(6):
        reach = 62 + 9 * min(number, 3) + 2 * number
        centre = np.array([128.0, -18.0 + 24.0 * number, -12.0])
        angles = np.linspace(-0.75 * np.pi, 0.62 * np.pi, 13) + np.pi
        # Around the chest, and down towards the front.
        points = [centre + np.array([reach * np.cos(a), -18 * np.sin(a), 0.78 * reach * np.sin(a)]) for a in angles]
        # The parts overlap, so that there is no wall between them.
        ends = [(a - 0.12 * (b - a), b + 0.12 * (b - a)) for a, b in pairwise(points)]
        rib = [(*both, [(0, 2.6, 5.0), (1, 2.6, 5.0)], 0.7, 0.45, (0.0, 0.0), {"wobble": 0.0}) for both in ends]
        build.bone(f"rib {number + 1}", *_make_parts(build, rib), melt=2.0 * s)
