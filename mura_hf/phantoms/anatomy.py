"""Anatomy of one patient's body part, and the field that its film covers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .bones import FOREARM, BodyBuilder, Patient, add_carpus, add_long_bone, add_ray, add_shoulder_girdle, draw_patient
from .geometry import Body, make_ball, rotation

_Field = tuple[float, float, float, float]


@dataclass(frozen=True)
class Anatomy:
    """Bones and flesh of one patient's body part."""

    body_part: str  # one of `BODY_PARTS`
    patient: Patient  # properties of the patient
    bones: tuple[Body, ...]  # one body per bone
    flesh: Body  # one body, whose wall is fat and whose inside is muscle
    field: _Field  # field of a frontal film, (x0, y0, x1, y1) in mm
    loose: tuple[tuple[int, ...], ...] = ()  # groups of bones that dislocate together; the first of each has the joint
    lung: Body | None = None  # air in the chest, if the film shows it


def _skin(build: BodyBuilder, points: Sequence[tuple[float, ...]], wall: float = 3.0) -> None:
    """Adds flesh along points (x, y, z, a, b) in adult mm."""
    build.skin([tuple(value * build.patient.size for value in point) for point in points], wall)


def _forearm_flesh(build: BodyBuilder) -> None:
    rows = [
        (340, 46, 44), (255, 48, 42), (190, 46, 40), (90, 35, 29), (45, 28, 22), (12, 27, 19.5), (-18, 31, 18),
        (-50, 36, 16), (-76, 38, 13.5), (-90, 38, 9.5), (-101, 35, 6.5),
    ]  # fmt: skip
    _skin(build, [(0, y, 0, a, b) for y, a, b in rows], wall=2.4)


def _move(build: BodyBuilder, first: int, turn: np.ndarray, shift: tuple[float, float, float]) -> None:
    """Rotates and shifts (in adult mm) the bones from index `first` on."""
    by = np.array(shift) * build.patient.size
    build.bones[first:] = [bone.moved(turn, by) for bone in build.bones[first:]]


def _hand(build: BodyBuilder, flexion: float) -> _Field:
    add_long_bone(build, "radius", (6, 30))
    add_long_bone(build, "ulna", (6, 30))
    add_carpus(build)
    spread = build.rng.uniform(0.85, 1.35)
    for number in range(5):
        add_ray(build, number, breakable=True, spread=spread, flexion=build.rng.uniform(0, 5))
    _forearm_flesh(build)
    return (-84, -208, 66, 40)


def _wrist(build: BodyBuilder, flexion: float) -> _Field:
    add_long_bone(build, "radius", (5, 55), joint=0.0)
    add_long_bone(build, "ulna", (5, 55))
    add_carpus(build)
    for number in range(5):
        add_ray(build, number, breakable=False)
    build.loose = [(index,) for index, bone in enumerate(build.bones) if bone.name == "lunate"]
    _forearm_flesh(build)
    return (-46, -72, 50, 76)


def _finger(build: BodyBuilder, flexion: float) -> _Field:
    number = int(build.rng.integers(0, 5))
    bones = add_ray(build, number, breakable=True, flexion=build.rng.uniform(0, 7))
    first, last = build.bones[bones[0]].lofts[0], build.bones[bones[-1]].lofts[0]
    build.bones[bones[0]] = replace(build.bones[bones[0]], breakable=None, joint=None)
    if build.rng.random() < 0.45 and number > 0:
        known = len(build.bones), len(build.loose)
        add_ray(build, number + (1 if number < 4 else -1), breakable=False, spread=1.5)
        build.bones[known[0] :] = [replace(bone, joint=None) for bone in build.bones[known[0] :]]
        del build.loose[known[1] :]
    base, tip = first.point(0.55) / build.patient.size, last.point(1.0) / build.patient.size
    middle = (base[0] + 2 * tip[0]) / 3
    return (middle - 27, tip[1] - 9, middle + 27, base[1])


def _forearm(build: BodyBuilder, flexion: float) -> _Field:
    add_long_bone(build, "radius", (12, 222), joint=0.0)
    add_long_bone(build, "ulna", (12, 240))
    add_carpus(build)
    known = len(build.bones)
    for number in range(1, 5):
        add_ray(build, number, breakable=False)
    build.bones[known:] = [replace(bone, joint=None) for bone in build.bones[known:]]  # outside of the film
    build.loose = []
    _bent_humerus(build, flexion, None)
    _forearm_flesh(build)
    return (-62, -38, 62, 284)


def _bent_humerus(build: BodyBuilder, flexion: float, stretch: tuple[float, float] | None) -> None:
    first = len(build.bones)
    add_long_bone(build, "humerus", stretch)
    _move(build, first, rotation(0, flexion), (0, FOREARM + 2, 0))


def _elbow(build: BodyBuilder, flexion: float) -> _Field:
    add_long_bone(build, "radius", (180, 228), joint=1.0)
    add_long_bone(build, "ulna", (180, 250))
    build.loose = [tuple(range(len(build.bones)))]
    _bent_humerus(build, flexion, (14, 72))
    rows = [(FOREARM + 28, 30, 26), (FOREARM + 6, 43, 37), (190, 46, 40), (90, 35, 29)]
    _skin(build, [(0, y, 0, a, b) for y, a, b in rows])
    turn = rotation(0, flexion)
    rows = [(-26, 30, 26), (-4, 43, 37), (40, 43, 40), (140, 45, 45)]
    hinge = np.array([0, FOREARM + 2, 0])
    _skin(build, [(*(turn @ np.array([0.0, y, 0]) + hinge), a, b) for y, a, b in rows])
    return (-56, FOREARM - 76, 56, FOREARM + 82)


def _humerus(build: BodyBuilder, flexion: float) -> _Field:
    add_long_bone(build, "radius", None)
    add_long_bone(build, "ulna", None)
    _move(build, 0, np.eye(3), (0, -FOREARM - 2, 0))
    add_long_bone(build, "humerus", (20, 285), joint=0.0)
    first = len(build.bones)
    add_shoulder_girdle(build)
    _move(build, first, rotation(2, np.pi), (-22, 294, 0))
    build.bones[first:] = [replace(bone, breakable=None) for bone in build.bones[first:]]
    rows = [(-150, 36, 30), (-60, 45, 40), (0, 46, 40), (60, 45, 44), (150, 50, 49), (230, 55, 53), (318, 46, 46)]
    _skin(build, [(0, y, 0, a, b) for y, a, b in rows])
    _skin(build, [(-66, 368, 0, 60, 50), (-112, 282, -5, 72, 80), (-124, 130, -5, 72, 90)])
    return (-72, -34, 62, 338)


def _shoulder(build: BodyBuilder, flexion: float) -> _Field:
    s = build.patient.size
    add_long_bone(build, "humerus", (180, 286), joint=1.0)
    build.loose = [(0,)]
    _move(build, 0, rotation(2, np.pi), (-22, 296, 0))
    add_shoulder_girdle(build)
    _skin(build, [(-38, -46, 0, 36, 42), (-46, 50, 0, 44, 46), (-50, 170, 0, 42, 44)])
    _skin(build, [(10, -56, -4, 50, 42), (60, -10, -6, 80, 66), (90, 60, -8, 100, 88), (100, 150, -8, 110, 96)])
    _skin(build, [(20, -52, -10, 26, 30), (80, -72, -10, 46, 46), (140, -130, -8, 50, 50)])
    build.lung = Body("lung", (make_ball((112 * s, 90 * s, -10 * s), (54 * s, 44 * s, 105 * s), wall=1.0),), 1.0)
    return (-84, -72, 84, 104)


_BUILDERS: dict[str, Callable[[BodyBuilder, float], _Field]] = {
    "elbow": _elbow, "finger": _finger, "forearm": _forearm, "hand": _hand, "humerus": _humerus,
    "shoulder": _shoulder, "wrist": _wrist,
}  # fmt: skip


def build_anatomy(body_part: str, rng: np.random.Generator, flexion: float = 0.0) -> Anatomy:
    """Draws one patient's body part; the same state of `rng` gives the same patient for any flexion of the elbow."""
    patient = draw_patient(rng)
    build = BodyBuilder(patient, rng)
    x0, y0, x1, y1 = (float(value * patient.size) for value in _BUILDERS[body_part](build, flexion))
    melt = 7.0 * patient.size if body_part not in ("hand", "finger") else 3.5 * patient.size
    flesh = Body("flesh", tuple(build.flesh), melt)
    bones, loose = tuple(build.bones), tuple(build.loose)
    return Anatomy(body_part, patient, bones, flesh, (x0, y0, x1, y1), loose, build.lung)
