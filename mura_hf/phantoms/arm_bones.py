"""Long bones of the arm. Lengths are round adult values in mm.

Radius and ulna are written from the wrist (y = 0) up to the elbow (y = `FOREARM`), the humerus from the elbow (y = 0)
up to its head; whoever needs them elsewhere moves them.
"""

from collections.abc import Sequence

from .growth import add_growth_plate
from .patient import BodyBuilder

FOREARM = 243.0


def _rows(length: float, rows: Sequence[tuple[float, ...]], s: float) -> list[tuple[float, ...]]:
    """Sections given as (mm from the start, half axes in mm[, centre]) with shares and the patient's size."""
    return [(row[0] / length, *(value * s for value in row[1:])) for row in rows]


def add_radius(build: BodyBuilder, stretch: tuple[float, float] | None, joint: float | None = None) -> int:
    """Adds a radius; findings may sit between `stretch` mm above the wrist."""
    s, length = build.patient.size, 235.0
    rows = [
        (0, 13.2, 8.8),
        (3, 14.6, 9.8),
        (9, 13.6, 9.6),
        (20, 9.8, 7.8),
        (34, 7.2, 6.6),
        (90, 6.9, 6.0),
        (160, 7.2, 6.4),
        (198, 7.4, 7.0),
        (214, 6.3, 6.3),
        (222, 6.9, 6.8),
        (226, 9.6, 9.3),
        (235, 10.8, 10.4),
    ]
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
    """Adds an ulna; findings may sit between `stretch` mm above the wrist."""
    s, length = build.patient.size, 262.0
    rows = [
        (0, 7.2, 7.0),
        (3, 8.0, 7.6),
        (8, 7.4, 7.0),
        (22, 5.2, 5.1),
        (60, 5.4, 5.2),
        (130, 6.4, 6.6),
        (190, 6.8, 7.4),
        (214, 7.6, 9.6),
        (228, 8.4, 8.4),
        (240, 8.6, 6.6),
        (252, 10.2, 8.8),
        (262, 8.6, 7.6),
    ]
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
    """Adds a humerus; findings may sit between `stretch` mm above the elbow."""
    s, length = build.patient.size, 304.0
    rows = [
        (0, 17, 6.5),
        (6, 21, 6.2),
        (15, 25, 6.0),
        (27, 22, 7.2),
        (46, 13.5, 8.6),
        (75, 10.6, 9.8),
        (150, 10.6, 11),
        (215, 11.2, 11.4),
        (255, 13.5, 13.2),
        (276, 17.5, 16.5),
        (292, 21, 20),
        (304, 19, 19),
    ]
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
        build.ball((-12 * s, 0, 3 * s), (8.5 * s, 9.5 * s, 9.5 * s), wall=0.8, filling=1.1),  # capitulum
        build.loft(
            (-6 * s, 1 * s, 1 * s),
            (19 * s, -1 * s, 1 * s),
            [(0, 7.5 * s, 7.5 * s), (0.45, 7.0 * s, 7.0 * s), (1, 11 * s, 11 * s)],
            wall=0.9,
            filling=1.1,
            caps=(3 * s, 3 * s),
        ),  # trochlea
        build.ball(
            (25 * s, 12 * s, -2 * s), (5 * s, 5 * s, 7.5 * s), along=(0.5, -1, 0), wall=0.9
        ),  # medial epicondyle
        build.ball((-21 * s, 11 * s, 0), (4 * s, 5 * s, 7 * s), along=(-0.35, -1, 0), wall=0.9),
        build.ball(
            (17 * s, 303 * s, -3 * s), (22.5 * s, 22.5 * s, 20 * s), along=(0.75, 0.66, -0.1), wall=0.8, filling=1.1
        ),  # head
        build.ball(
            (-9 * s, 300 * s, 2 * s), (8.0 * s, 11 * s, 15 * s), along=(0.15, 1, 0), wall=0.9
        ),  # greater tubercle
    ]
    index = build.bone("humerus", *lofts, melt=4.0 * s, breakable=_stretch(stretch, length), joint=joint)
    return index


def _stretch(stretch: tuple[float, float] | None, length: float) -> tuple[float, float] | None:
    return None if stretch is None else (stretch[0] / length, stretch[1] / length)
