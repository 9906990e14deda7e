"""One patient's bones and flesh: individual variation, and the bones of the arm, hand and shoulder girdle.

`bones.json` holds the shapes, with round adult lengths in mm. A section is a place along the bone, its half axes, and
sometimes its centre. The wrist's joint line is at y = 0. Radius and ulna extend from there up to the elbow
(y = `FOREARM`). The humerus extends from the elbow (y = 0) up to its head; callers move it where they need it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .geometry import SAMPLES, Body, Loft, Vector, make_ball, make_loft

FOREARM = 243.0
_SHAPES = json.loads((Path(__file__).parent / "bones.json").read_text())


@dataclass(frozen=True)
class Patient:
    """Properties of one patient, relative to an average adult."""

    age: str  # "child", "adult" or "elder"
    size: float  # length of bones
    build: float  # width of bones relative to their length
    wall: float  # thickness of cortical bone
    density: float  # filling of cancellous bone
    flesh: float  # thickness of soft tissue


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


_WALL = ((0.45, 0.0), (0.5, 0.0), (0.0, 0.42), (0.0, 0.46), (0.0, 0.40), (0.5, 0.0), (0.45, 0.0))
"""Wall at the sections of a ray's bone: a part in mm, and one in radii of the shaft."""


def add_carpus(build: BodyBuilder) -> None:
    """Adds the eight carpal bones; small children lack those that ossify late."""
    size = build.patient.size
    late = ("pisiform", "trapezoid", "trapezium", "scaphoid") if build.patient.size < 0.72 else ()
    grown = 0.8 if build.patient.age == "child" else 1.0
    for shape in _SHAPES["carpals"]:
        if shape["name"] in late:
            continue
        middle = np.array(shape["centre"]) * size + build.rng.normal(0, 0.5, 3)
        turn = np.deg2rad(shape["degrees"] + build.rng.normal(0, 8))
        along = np.array([np.sin(turn), -np.cos(turn), 0.15])
        axes = np.array(shape["radii"]) * size * grown * 1.05
        # Several ellipsoids blend into a bone with flat faces rather than an egg.
        side = np.array([np.cos(turn), np.sin(turn), 0.0])
        balls = [(middle, axes, along)]
        for _ in range(3):  # random facets
            way = build.rng.normal(0, 1, 3)
            way /= np.linalg.norm(way)
            off = way * np.array([0.5, 0.42, 0.5]) * np.mean(axes)
            balls.append((middle + off, axes * build.rng.uniform(0.5, 0.68), along + way * 0.4))
        knob = shape["knob"]  # offset across, offset along, radius
        off = along * knob[1] * -0.25 * size + side * knob[0] * 0.6 * size
        balls.append((middle + off, np.full(3, knob[2] * size * grown), np.array([0.0, 1.0, 0.0])))
        off = -along * axes[2] * 0.35 - side * axes[0] * 0.3
        balls.append((middle + off, axes * np.array([0.8, 0.8, 0.55]), along))
        parts = [build.ball(at, radii, along=tuple(lean), wall=0.42, filling=1.35) for at, radii, lean in balls]
        build.bone(shape["name"], *parts, melt=2.2)


def _phalanx_or_metacarpal(
    build: BodyBuilder, part: str, name: str, start: np.ndarray, end: np.ndarray, r: float, *, breakable: bool
) -> int:
    """Adds one bone of a ray; `r` is the radius of its shaft in mm."""
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    side = np.array([-along[1], along[0], 0.0])
    side /= np.linalg.norm(side)
    shape = _SHAPES["ray_bones"][part]
    shaft = build.loft(
        start,
        end,
        [(t, a * r, b * r) for t, a, b in shape["sections"]],
        wall=[fixed + share * r for fixed, share in _WALL],
        filling=shape["filling"],
        caps=(shape["caps"][0], shape["caps"][1] * r),  # in mm, and in radii of the shaft
        bow=(0.0, shape["bow"] * length),
        wobble=shape["wobble"],
    )
    balls = []
    for knob in shape["knobs"]:
        centre = {"start": start, "end": end}[knob["at"]] + along * r * knob["along"] + side * r * knob["side"]
        radii = np.array(knob["radii"]) * r
        balls.append(build.ball(centre, radii, along=tuple(along), wall=0.45, filling=1.1))
    limits = (0.2, 0.8) if breakable else None
    index = build.bone(f"{part} of the {name}", shaft, *balls, melt=0.35 * r, breakable=limits, joint=0.0)
    add_growth_plate(build, index, at_start=part != "metacarpal" or name == "thumb", thickness=r * 0.55)
    return index


def add_ray(
    build: BodyBuilder, number: int, *, breakable: bool, spread: float = 1.0, flexion: float = 0.0
) -> list[int]:
    """Adds a metacarpal with its phalanges and the flesh around them, and returns their indices."""
    ray, shapes = _SHAPES["rays"][number], _SHAPES["ray_bones"]
    size = build.patient.size
    angle = ray["degrees"] * spread + build.rng.normal(0, 2.0)
    point = np.array(ray["base"]) * size
    parts = [part for part in shapes if len(ray["lengths"]) == 4 or part != "middle phalanx"]
    flesh = []
    indices: list[int] = []
    for order, (part, length) in enumerate(zip(parts, ray["lengths"], strict=True)):
        r = ray["radius"] * shapes[part]["slimness"] * size
        turn, bend = np.deg2rad(angle), np.deg2rad(flexion * order)
        way = np.array([np.sin(turn) * np.cos(bend), -np.cos(turn) * np.cos(bend), np.sin(bend)])
        end = point + way * length * size * build.rng.normal(1, 0.025)
        limited = breakable and part != "distal phalanx"
        indices.append(_phalanx_or_metacarpal(build, part, ray["name"], point, end, r, breakable=limited))
        if order > 0 or number == 0:
            flesh += [(*point, r * 2.5, r * 2.3), (*((point + end) / 2), r * 2.35, r * 2.2)]
        if part == "distal phalanx":
            flesh.append((*(end + way * 3.0 * size), r * 2.0, r * 1.7))
        point = end + way * 1.7 * size
        angle += build.rng.normal(0, 2.0)
    build.skin(flesh, wall=1.6)
    build.loose += [tuple(range(index, len(build.bones))) for index in indices[1:]]
    return indices


def _make_parts(build: BodyBuilder, parts: Sequence[dict[str, Any]]) -> list[Loft]:
    """Makes parts of a bone at the patient's size: balls have a centre, others a start and an end."""
    s = build.patient.size
    made = []
    for part in parts:
        options = {name: value for name, value in part.items() if name != "name"}
        for name in options.keys() & {"centre", "radii", "start", "end", "caps", "bow"}:
            options[name] = [value * s for value in part[name]]
        if "centre" in part:
            made.append(build.ball(**options))
            continue
        rows = part["sections"]  # places may be in mm or shares of the length
        options["sections"] = [(row[0] / rows[-1][0], *(value * s for value in row[1:])) for row in rows]
        made.append(build.loft(**options))
    return made


def add_long_bone(
    build: BodyBuilder, name: str, stretch: tuple[float, float] | None, joint: float | None = None
) -> None:
    """Adds a radius, ulna or humerus; findings may be within `stretch`, in mm from its start."""
    shape, s = _SHAPES["long_bones"][name], build.patient.size
    breakable = stretch and (stretch[0] / shape["length"], stretch[1] / shape["length"])
    parts = _make_parts(build, shape["parts"])
    index = build.bone(name, *parts, melt=shape["melt"] * s, breakable=breakable, joint=joint)
    if shape["epiphysis"]:
        add_growth_plate(build, index, at_start=True, thickness=shape["epiphysis"] * s)


def add_shoulder_girdle(build: BodyBuilder) -> None:
    """Adds scapula, clavicle and upper ribs for a humeral head near (-40, -8, 0), with y pointing down."""
    s = build.patient.size
    build.bone("scapula", *_make_parts(build, _SHAPES["scapula"]), melt=4 * s)
    build.bone("clavicle", *_make_parts(build, _SHAPES["clavicle"]), breakable=(0.12, 0.72))
    for number in range(6):
        reach = 62 + 9 * min(number, 3) + 2 * number
        centre = np.array([128.0, -18.0 + 24.0 * number, -12.0])
        angles = np.linspace(-0.75 * np.pi, 0.62 * np.pi, 13) + np.pi
        # Around the chest, and down towards the front.
        points = [centre + np.array([reach * np.cos(a), -18 * np.sin(a), 0.78 * reach * np.sin(a)]) for a in angles]
        # The parts overlap, so that there is no wall between them.
        ends = [(a - 0.12 * (b - a), b + 0.12 * (b - a)) for a, b in pairwise(points)]
        rib = {"sections": [(0, 2.6, 5.0), (1, 2.6, 5.0)], "wall": 0.7, "filling": 0.45, "caps": (0, 0), "wobble": 0.0}
        parts = [{**rib, "start": start, "end": end} for start, end in ends]
        build.bone(f"rib {number + 1}", *_make_parts(build, parts), melt=2.0 * s)
