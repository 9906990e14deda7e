"""Skeletons of the seven body parts. Lengths and radii are round adult values in mm; each patient varies them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .skeleton import Anatomy, SkeletonBuilder

# Ray by ray, thumb to little finger: base of the metacarpal (x, y, z), direction in degrees, lengths of metacarpal and
# phalanges, radius of the metacarpal's shaft.
_RAYS = (
    ("thumb", (-21.0, -24.0, 8.0), -38.0, (45.0, 31.0, 22.0), 4.6),
    ("index finger", (-12.0, -31.0, 0.0), -9.0, (67.0, 40.0, 23.0, 17.0), 4.2),
    ("middle finger", (-1.5, -32.0, -2.0), -1.0, (64.0, 44.0, 27.0, 18.0), 4.3),
    ("ring finger", (8.0, -30.0, -1.0), 7.0, (57.0, 41.0, 26.0, 18.0), 3.9),
    ("little finger", (16.0, -27.0, 2.0), 16.0, (52.0, 33.0, 18.0, 16.0), 3.7),
)
# Bones of a ray, and the radius of their shafts against the metacarpal's. The thumb has no middle phalanx.
_RAY_PARTS = (("metacarpal", 1.0), ("proximal phalanx", 0.92), ("middle phalanx", 0.8), ("distal phalanx", 0.6))

# Name, centre (x, y, z), width and height of the bones of the wrist.
_CARPALS = (
    ("scaphoid", -10.5, -9.5, 2, 10.5, 16),
    ("lunate", 1.0, -7.5, 0, 11.5, 13.5),
    ("triquetrum", 11.5, -10.5, -2, 9.5, 12.5),
    ("pisiform", 12.5, -8.5, 7, 7, 8),
    ("trapezium", -18.0, -20.0, 4, 10, 12.5),
    ("trapezoid", -9.5, -22.5, 0, 8.5, 11.5),
    ("capitate", -0.5, -20.5, 0, 11.0, 19),
    ("hamate", 9.5, -20.0, 0, 11.0, 15),
)


def _ray(build: SkeletonBuilder, index: int, *, breakable: bool, spread: float = 1.0, flexion: float = 0.0) -> None:
    """One metacarpal with its phalanges and the flesh around them."""
    name, base, angle, lengths, shaft = _RAYS[index]
    angle = angle * spread + build.rng.normal(0, 2.0)
    point = base
    parts = [part for part in _RAY_PARTS if len(lengths) == len(_RAY_PARTS) or part[0] != "middle phalanx"]
    flesh = [(*base, shaft * 2.6)]
    for number, ((part, slimness), length) in enumerate(zip(parts, lengths, strict=True)):
        radius = shaft * slimness
        start_radius, end_radius = radius * 1.75, radius * (1.55 if part != "distal phalanx" else 1.25)
        end = build.moved(point, angle, length * build.rng.normal(1, 0.02))
        end = (end[0], end[1], end[2] + flexion * number * 4)
        build.bone(
            f"{part} of the {name}",
            point,
            end,
            radius,
            start_radius,
            end_radius,
            bow=0.012,
            can_break=breakable and part != "distal phalanx",
        )
        flesh.append((*end, radius * (2.3 if part != "distal phalanx" else 2.1)))
        point = build.moved(end, angle, end_radius * 0.8 + 1.2)
        angle += build.rng.normal(0, 2.0)
    build.flesh(*flesh)


def _carpus(build: SkeletonBuilder) -> None:
    for name, x, y, z, width, height in _CARPALS:
        build.block(name, (x, y, z), width, height)


def _distal_forearm(build: SkeletonBuilder, length: float) -> None:
    visible = (0.35, 0.88)
    build.bone("radius", (-5, length, 0), (-7, 2.5, 0), 6.4, 6.6, 13.5, flare=0.32, can_break=True, visible=visible)
    build.bone("ulna", (13, length, -3), (13.5, 3.5, -4), 5.4, 5.8, 7.2, flare=0.22, can_break=True, visible=visible)
    build.flesh((2, length, 0, 27), (2, 30, 0, 25), (1, 0, 0, 26), (-1, -18, 0, 30))


def _hand(build: SkeletonBuilder) -> Anatomy:
    _distal_forearm(build, 55)
    _carpus(build)
    spread = build.rng.uniform(0.85, 1.35)
    for index in range(5):
        _ray(build, index, breakable=True, spread=spread)
    build.flesh((0, -20, 0, 30), (-1, -55, 0, 32), (1, -82, 0, 34))
    return _anatomy("hand", build, (-88, -222, 70, 38))


def _wrist(build: SkeletonBuilder) -> Anatomy:
    _distal_forearm(build, 105)
    _carpus(build)
    for index in range(5):
        _ray(build, index, breakable=False)
    build.flesh((0, -18, 0, 30), (-1, -50, 0, 32), (1, -80, 0, 33))
    return _anatomy("wrist", build, (-50, -64, 50, 82))


def _finger(build: SkeletonBuilder) -> Anatomy:
    index = int(build.rng.integers(1, 5))
    neighbour = index + (1 if index < 4 else -1)
    _ray(build, index, breakable=True, flexion=build.rng.uniform(0, 0.6))
    chosen = len(build.bones)
    if build.rng.random() < 0.5:
        _ray(build, neighbour, breakable=False, spread=1.7)
    base = build.bones[0].axis[0]
    tip = build.bones[chosen - 1].axis[-1]
    build.bones = [replace(bone, can_break=bone.can_break and number > 0) for number, bone in enumerate(build.bones)]
    middle = (base[0] + 2 * tip[0]) / 3
    return _anatomy("finger", build, (middle - 34, tip[1] - 20, middle + 34, base[1] - 30))


def _forearm(build: SkeletonBuilder) -> Anatomy:
    build.bone("radius", (-11, 236, 2), (-9, 2.5, 0), 7.0, 10.5, 14.0, bow=-0.035, flare=0.1, can_break=True)
    build.bone("ulna", (8, 258, -4), (13, 4, -3), 6.6, 14.0, 7.2, bow=0.02, flare=0.12, can_break=True)
    _carpus(build)
    build.bone("humerus", (2, 360, 0), (0, 262, 0), 11, 11, 22, flare=0.3)
    for x in (-13.0, 12.0):
        build.block("condyle", (x, 256, 0), 20, 22)
    for index in range(1, 5):
        _ray(build, index, breakable=False)
    build.flesh((0, 350, 0, 44), (0, 255, 0, 47), (0, 190, 0, 46), (1, 90, 0, 34), (2, 10, 0, 27), (0, -45, 0, 32))
    return _anatomy("forearm", build, (-70, -42, 70, 292))


def _elbow(build: SkeletonBuilder) -> Anatomy:
    build.bone("humerus", (2, -125, 0), (0, -6, 0), 10.5, 11, 22, flare=0.33, can_break=True, visible=(0.5, 0.88))
    build.block("capitulum", (-11, 0, 2), 19, 20)
    build.block("trochlea", (9, 1, 0), 18, 20)
    build.bone("medial epicondyle", (14, -14, 0), (27, -6, -2), 5, 6, 6)
    bend = build.rng.uniform(-12, 12)
    hinge = np.deg2rad(bend)
    tip = (8 + 150 * np.sin(hinge), 160 * np.cos(hinge), 0.0)
    build.bone("ulna", (7, -4, -9), tip, 7.2, 13, 6, flare=0.24, can_break=True, visible=(0.14, 0.36))
    build.bone(
        "radius", (-10, 13, 3), (tip[0] - 20, tip[1], 4), 6.4, 11.5, 7, flare=0.1, can_break=True, visible=(0.1, 0.32)
    )
    build.flesh((0, -125, 0, 45), (0, -40, 0, 43), (0, 0, 0, 46), (0, 45, 0, 45), (tip[0] * 0.8, 140, 0, 38))
    return _anatomy("elbow", build, (-62, -88, 62, 84))


def _humerus(build: SkeletonBuilder) -> Anatomy:
    build.bone(
        "humerus", (6, -150, 0), (0, 142, 0), 11.5, 20, 22, flare=0.13, bow=0.01, can_break=True, visible=(0.18, 0.82)
    )
    build.block("humeral head", (13, -156, 3), 43, 46)
    build.block("greater tubercle", (-7, -144, 0), 22, 30)
    build.block("capitulum", (-11, 150, 2), 19, 20)
    build.block("trochlea", (9, 151, 0), 18, 20)
    build.bone("ulna", (8, 148, -9), (10, 300, -5), 7, 13, 6)
    build.bone("radius", (-10, 165, 3), (-12, 300, 2), 6.4, 11, 7)
    build.bone("lateral border of the scapula", (38, -150, -12), (62, -20, -20), 4.5, 14, 6)
    build.flesh((12, -170, 0, 58), (4, -90, 0, 57), (0, 0, 0, 52), (0, 80, 0, 46), (0, 140, 0, 46), (0, 220, 0, 44))
    build.flesh((40, -190, 0, 55), (90, -130, 0, 95), (105, -30, 0, 90))
    return _anatomy("humerus", build, (-72, -196, 76, 182))


def _shoulder(build: SkeletonBuilder) -> Anatomy:
    build.bone("humerus", (-48, -2, 0), (-58, 150, 0), 11.5, 21, 12, flare=0.2, can_break=True, visible=(0.1, 0.5))
    build.block("humeral head", (-42, -10, 3), 44, 47)
    build.block("greater tubercle", (-63, 0, 0), 20, 28)
    build.bone("clavicle", (-36, -44, 6), (100, -38, 16), 6.2, 9, 11, bow=-0.05, can_break=True, visible=(0.15, 0.75))
    build.bone("acromion", (-44, -38, -8), (6, -44, -22), 6, 11, 7)
    build.bone("glenoid", (-15, -22, -4), (-12, 18, -6), 8, 8, 9, cortex=0.12)
    build.bone("coracoid", (6, -24, 4), (-16, -19, 22), 6, 8, 6.5)
    build.bone("lateral border of the scapula", (-8, 16, -10), (38, 108, -26), 4.2, 9, 6)
    build.bone("medial border of the scapula", (46, -22, -24), (44, 106, -30), 2.4, 3, 4)
    build.bone("spine of the scapula", (-4, -28, -24), (44, -12, -34), 4, 6, 3)
    for number in range(5):
        y = -24 + 29 * number
        build.bone(
            f"rib {number + 2}", (28 + 5 * number, y + 12, -34), (130, y - 12, 20), 4.6, 5, 5, bow=-0.14, cortex=0.22
        )
    build.flesh((-46, -30, 0, 40), (-54, 60, 0, 50), (-58, 150, 0, 46))
    build.flesh((-30, -30, 0, 36), (20, 0, 0, 62), (70, 40, 0, 105), (100, 110, 0, 120))
    build.flesh((10, -38, 0, 30), (70, -70, 0, 42), (130, -100, 0, 60))
    return _anatomy("shoulder", build, (-96, -76, 92, 118))


_BUILDERS: dict[str, Callable[[SkeletonBuilder], Anatomy]] = {
    "elbow": _elbow,
    "finger": _finger,
    "forearm": _forearm,
    "hand": _hand,
    "humerus": _humerus,
    "shoulder": _shoulder,
    "wrist": _wrist,
}


def _anatomy(body_part: str, build: SkeletonBuilder, field: tuple[float, float, float, float]) -> Anatomy:
    return Anatomy(body_part, tuple(build.bones), tuple(build.soft), field)


def build_anatomy(body_part: str, rng: np.random.Generator) -> Anatomy:
    """Draws one patient's skeleton of a body part.

    Args:
        body_part: One of `BODY_PARTS`.
        rng: Source of the individual variation; the same state gives the same patient.
    """
    return _BUILDERS[body_part](SkeletonBuilder(rng))
