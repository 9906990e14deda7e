"""Bones of the arm, the hand and the shoulder girdle. Lengths are round adult values in mm.

The wrist's joint line is at y = 0. Radius and ulna extend from there up to the elbow (y = `FOREARM`). The humerus
extends from the elbow (y = 0) up to its head; callers move it where they need it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .patient import BodyBuilder, add_growth_plate
from .solids import Loft

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
    """Shape of a bone of a ray, in radii of its shaft.

    Attributes:
        rows: (share of the length, half axis across, half axis deep).
        caps: Rounding of the start in mm and of the end in radii.
        filling: As in `make_loft`.
        bow: Offset of the middle as a share of the length.
        wobble: As in `BodyBuilder.loft`.
    """

    rows: tuple[tuple[float, float, float], ...]
    caps: tuple[float, float]
    filling: tuple[float, ...] = _FILLING
    bow: float = 0.0
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
    lofts = [shaft]
    for centre, radii in knobs:
        lofts.append(build.ball(centre, np.array(radii) * r, along=tuple(along), wall=0.45, filling=1.1))
    index = build.bone(
        f"{part} of the {name}", *lofts, melt=0.35 * r, breakable=(0.2, 0.8) if breakable else None, joint=0.0
    )
    if build.patient.age == "child":
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
        indices.append(
            _phalanx_or_metacarpal(build, part, name, point, end, r, breakable=breakable and part != "distal phalanx")
        )
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


def _rows(length: float, rows: Sequence[tuple[float, ...]], s: float) -> list[tuple[float, ...]]:
    """Converts sections (mm from the start, half axes in mm[, centre]) to shares, at the patient's size."""
    return [(row[0] / length, *(value * s for value in row[1:])) for row in rows]


def add_radius(build: BodyBuilder, stretch: tuple[float, float] | None, joint: float | None = None) -> int:
    """Adds a radius; findings may be within `stretch`, in mm above the wrist."""
    s, length = build.patient.size, 235.0
    rows = [
        (0, 13.2, 8.8), (3, 14.6, 9.8), (9, 13.6, 9.6), (20, 9.8, 7.8), (34, 7.2, 6.6), (90, 6.9, 6.0),
        (160, 7.2, 6.4), (198, 7.4, 7.0), (214, 6.3, 6.3), (222, 6.9, 6.8), (226, 9.6, 9.3), (235, 10.8, 10.4),
    ]  # fmt: skip
    shaft = build.loft(
        (-7 * s, 0.5 * s, 1 * s),
        (-12 * s, 235.5 * s, 2 * s),
        _rows(length, rows, s),
        caps=(4.0 * s, 2.6 * s),
        bow=(-5 * s, 1.5 * s),
        wall=[0.7, 0.6, 0.6, 0.9, 1.6, 2.7, 2.7, 2.0, 1.5, 1.0, 0.8, 0.8],
        filling=[1.25, 1.2, 1.15, 1.0, 0.6, 0.1, 0.1, 0.35, 0.6, 0.9, 1.1, 1.15],
    )
    styloid = build.ball((-14.6 * s, 5.5 * s, 1 * s), (5.6 * s, 7.0 * s, 10.5 * s), along=(-0.2, -1.0, 0.0), wall=0.7)
    tuberosity = build.ball((-8.0 * s, 205 * s, 4 * s), (4.2 * s, 4.2 * s, 10 * s), wall=1.2)
    index = build.bone(
        "radius", shaft, styloid, tuberosity, melt=4.5 * s, breakable=_stretch(stretch, length), joint=joint
    )
    if build.patient.age == "child":
        add_growth_plate(build, index, at_start=True, thickness=5.5 * s)
    return index


def add_ulna(build: BodyBuilder, stretch: tuple[float, float] | None) -> int:
    """Adds an ulna; findings may be within `stretch`, in mm above the wrist."""
    s, length = build.patient.size, 262.0
    rows = [
        (0, 7.2, 7.0), (3, 8.0, 7.6), (8, 7.4, 7.0), (22, 5.2, 5.1), (60, 5.4, 5.2), (130, 6.4, 6.6), (190, 6.8, 7.4),
        (214, 7.6, 9.6), (228, 8.4, 8.4), (240, 8.6, 6.6), (252, 10.2, 8.8), (262, 8.6, 7.6),
    ]  # fmt: skip
    shaft = build.loft(
        (13.5 * s, 3.0 * s, -4 * s),
        (9 * s, 264 * s, -10 * s),
        _rows(length, rows, s),
        caps=(4.0 * s, 6.0 * s),
        bow=(2 * s, -2 * s),
        wall=[0.7, 0.7, 0.7, 1.3, 2.3, 2.8, 2.6, 1.7, 1.4, 1.3, 1.2, 1.2],
        filling=[1.1, 1.1, 1.0, 0.5, 0.1, 0.1, 0.3, 0.8, 0.9, 1.0, 1.0, 1.0],
    )
    styloid = build.ball((17.6 * s, 3.5 * s, -5 * s), (2.8 * s, 2.8 * s, 6.5 * s), along=(0.15, -1.0, 0.0), wall=0.6)
    coronoid = build.ball((9 * s, 224 * s, 1.5 * s), (7.5 * s, 6 * s, 9 * s), along=(0, -0.8, 0.6), wall=0.8)
    index = build.bone("ulna", shaft, styloid, coronoid, melt=4.0 * s, breakable=_stretch(stretch, length))
    if build.patient.age == "child":
        add_growth_plate(build, index, at_start=True, thickness=4.5 * s)
    return index


def add_humerus(build: BodyBuilder, stretch: tuple[float, float] | None, joint: float | None = None) -> int:
    """Adds a humerus; findings may be within `stretch`, in mm above the elbow."""
    s, length = build.patient.size, 304.0
    rows = [
        (0, 17, 6.5), (6, 21, 6.2), (15, 25, 6.0), (27, 22, 7.2), (46, 13.5, 8.6), (75, 10.6, 9.8), (150, 10.6, 11),
        (215, 11.2, 11.4), (255, 13.5, 13.2), (276, 17.5, 16.5), (292, 21, 20), (304, 19, 19),
    ]  # fmt: skip
    lofts = [
        build.loft(
            (0, 3 * s, 0),
            (6 * s, 306 * s, 0),
            _rows(length, rows, s),
            caps=(3 * s, 9 * s),
            bow=(2 * s, -3 * s),
            wall=[0.9, 0.9, 1.1, 1.4, 2.3, 3.4, 3.9, 3.7, 2.5, 1.4, 0.9, 0.8],
            filling=[1.0, 0.9, 0.7, 0.7, 0.5, 0.15, 0.1, 0.15, 0.45, 0.85, 1.0, 1.0],
        ),
        # capitulum and trochlea
        build.ball((-12 * s, 0, 3 * s), (8.5 * s, 9.5 * s, 9.5 * s), wall=0.8, filling=1.1),
        build.loft(
            (-6 * s, 1 * s, 1 * s),
            (19 * s, -1 * s, 1 * s),
            [(0, 7.5 * s, 7.5 * s), (0.45, 7.0 * s, 7.0 * s), (1, 11 * s, 11 * s)],
            wall=0.9,
            filling=1.1,
            caps=(3 * s, 3 * s),
        ),
        # medial and lateral epicondyle, head, greater tubercle
        build.ball((25 * s, 12 * s, -2 * s), (5 * s, 5 * s, 7.5 * s), along=(0.5, -1, 0), wall=0.9),
        build.ball((-21 * s, 11 * s, 0), (4 * s, 5 * s, 7 * s), along=(-0.35, -1, 0), wall=0.9),
        build.ball(
            (17 * s, 303 * s, -3 * s), (22.5 * s, 22.5 * s, 20 * s), along=(0.75, 0.66, -0.1), wall=0.8, filling=1.1
        ),
        build.ball((-9 * s, 300 * s, 2 * s), (8.0 * s, 11 * s, 15 * s), along=(0.15, 1, 0), wall=0.9),
    ]
    index = build.bone("humerus", *lofts, melt=4.0 * s, breakable=_stretch(stretch, length), joint=joint)
    return index


def _stretch(stretch: tuple[float, float] | None, length: float) -> tuple[float, float] | None:
    return None if stretch is None else (stretch[0] / length, stretch[1] / length)


# Start and end, sections, wall, filling and caps of each part, then options of `BodyBuilder.loft`.
_SCAPULA: tuple[tuple[Any, ...], ...] = (
    ((14, -22, -16), (40, 106, -30), [(0, 14, 2.5, 8, 0), (0.2, 26, 1.6, 14, 0), (0.55, 18, 1.5, 6, 0), (1, 6, 3)],
     [0.8, 0.5, 0.5, 0.9], [0.8, 0.2, 0.2, 0.8], (3, 5), {"turn": 0.3}),
    ((-12, -24, -6), (-9, 16, -8), [(0, 5, 9), (0.5, 7.5, 14), (1, 5, 10)], 0.9, 1.1, (6, 6), {}),
    ((-6, 8, -9), (39, 104, -29), [(0, 7, 7), (0.5, 3.6, 4.5), (1, 5, 4)], 1.3, 0.5, (2, 4), {}),
    ((2, -25, -4), (-16, -14, 26), [(0, 7, 7), (0.5, 6.5, 6), (1, 5.5, 6)], 0.9, 0.8, (2, 5), {"bow": (0, 6)}),
    ((54, -10, -32), (-28, -44, -30), [(0, 2.2, 4), (0.5, 4.0, 7), (0.85, 5.5, 9), (1, 5.5, 9)], 0.9, 0.6, (2, 4), {}),
    ((-24, -43, -30), (-46, -38, -6), [(0, 8, 5), (1, 8, 4.2)], 1.0, 0.8, (3, 5), {}),
)  # fmt: skip
_CLAVICLE = (
    (-38, -43, -4), (110, -34, 18),
    [(0, 9, 4.6), (0.15, 7.5, 4.8, 0, -5), (0.45, 5.6, 5.6, 0, 3), (0.75, 6, 6.4, 0, 10), (1, 9, 9.5)],
    [0.9, 1.4, 2.3, 2.1, 1.1], [0.9, 0.6, 0.25, 0.4, 0.9], (3, 3), {"bow": (-6, 0)},
)  # fmt: skip


def add_shoulder_girdle(build: BodyBuilder) -> None:
    """Adds scapula, clavicle and upper ribs for a humeral head near (-40, -8, 0), with y pointing down."""
    s = build.patient.size

    def scaled(values: Sequence[float]) -> tuple[Any, ...]:
        return tuple(value * s for value in values)

    def loft(start: Any, end: Any, rows: Any, wall: Any, filling: Any, caps: Any, options: dict[str, Any]) -> Loft:
        sections = [(row[0], *scaled(row[1:])) for row in rows]
        options = {name: scaled(value) if name == "bow" else value for name, value in options.items()}
        return build.loft(
            scaled(start), scaled(end), sections, wall=wall, filling=filling, caps=scaled(caps), **options
        )

    build.bone("scapula", *(loft(*part) for part in _SCAPULA), melt=4 * s)
    build.bone("clavicle", loft(*_CLAVICLE), breakable=(0.12, 0.72))
    for number in range(6):
        reach = 62 + 9 * min(number, 3) + 2 * number
        centre = np.array([128.0, -18.0 + 24.0 * number, -12.0])
        angles = np.linspace(-0.75 * np.pi, 0.62 * np.pi, 13) + np.pi
        # Around the chest, and down towards the front.
        points = [centre + np.array([reach * np.cos(a), -18 * np.sin(a), 0.78 * reach * np.sin(a)]) for a in angles]
        # The parts overlap, so that there is no wall between them.
        ends = [(a - 0.12 * (b - a), b + 0.12 * (b - a)) for a, b in pairwise(points)]
        rib = [loft(*both, [(0, 2.6, 5.0), (1, 2.6, 5.0)], 0.7, 0.45, (0.0, 0.0), {"wobble": 0.0}) for both in ends]
        build.bone(f"rib {number + 1}", *rib, melt=2.0 * s)
