"""Findings that make a phantom abnormal, drawn once per patient and so equal in all projections."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .anatomy import Anatomy
from .geometry import Body, Loft, make_ball, make_loft
from .raymarch import NO_CHANGE

MIX = {
    "displaced_fracture": 0.26,
    "subtle_fracture": 0.28,
    "hardware": 0.16,
    "lytic_lesion": 0.12,
    "degeneration": 0.11,
    "dislocation": 0.07,
}
"""Finding -> share of abnormal studies. Without a visible joint, a dislocation is drawn as a displaced fracture."""

FINDINGS = tuple(MIX)

UNUSUAL_FINDINGS = ("sclerotic_lesion",)
"""Findings that are in no default tree, so that models trained on one have not seen them."""


@dataclass(frozen=True)
class Finding:
    """A finding of one patient."""

    kind: str  # one of `FINDINGS` or `UNUSUAL_FINDINGS`
    centre: np.ndarray  # float64 `[3]`, its centre in mm
    reach: float  # radius around the centre that contains it, in mm
    bodies: dict[int, Body]  # index of a bone -> the bone with the finding
    changes: dict[int, np.ndarray]  # index of a bone -> `change` of `integrate_body`
    metal: tuple[Body, ...] = ()  # bodies of solid metal to add


def draw_finding(kind: str, anatomy: Anatomy, straight: Anatomy, rng: np.random.Generator) -> Finding:
    """Draws position and appearance of a finding; the same state of `rng` gives the same finding.

    Args:
        kind: One of `FINDINGS` or `UNUSUAL_FINDINGS`.
        anatomy, straight: The patient in the projection and with straight joints. The latter decides what is inside of
            the film, so that every projection gets the same finding.
        rng: Generator of the finding.
    """
    if kind == "dislocation" and not anatomy.loose:
        kind = "displaced_fracture"
    return _DRAW[kind](kind, anatomy, straight, rng)


def _in_sight(anatomy: Anatomy, point: np.ndarray) -> bool:
    """Whether a point is well inside the field of a frontal film."""
    x0, y0, x1, y1 = anatomy.field
    margin_x, margin_y = 0.12 * (x1 - x0), 0.12 * (y1 - y0)
    return bool(x0 + margin_x < point[0] < x1 - margin_x and y0 + margin_y < point[1] < y1 - margin_y)


def _joint_of(bone: Body) -> np.ndarray:
    return bone.lofts[0].point(bone.joint or 0.0)


def _site(anatomy: Anatomy, straight: Anatomy, rng: np.random.Generator) -> tuple[int, Loft, float, float]:
    """Draws a bone, and returns its index, its axis, a position along it in mm, and the bone's radius there in mm."""
    candidates = [index for index, bone in enumerate(anatomy.bones) if bone.breakable]
    for _ in range(100):
        index = int(rng.choice(candidates))
        low, high = straight.bones[index].breakable or (0.25, 0.75)
        share = float(rng.uniform(low, high))
        if _in_sight(straight, straight.bones[index].lofts[0].point(share)):
            break
    shaft = anatomy.bones[index].lofts[0]
    return index, shaft, share * shaft.length, shaft.radius(share)


def _fracture(kind: str, anatomy: Anatomy, straight: Anatomy, rng: np.random.Generator) -> Finding:
    """A jagged fracture: displaced, or a hairline with hardly any step."""
    index, shaft, place, radius = _site(anatomy, straight, rng)
    change = NO_CHANGE.copy()
    lean, about = np.tan(np.deg2rad(rng.uniform(5, 50))), rng.uniform(0, 2 * np.pi)
    change[:4] = 1, place, lean * np.cos(about), lean * np.sin(about)
    change[10], change[11] = 0.10 * radius + 0.15, 1 / (0.22 * radius + 0.4)
    change[14] = -1e4
    if kind == "displaced_fracture":
        way = rng.uniform(0, 2 * np.pi)
        far = radius * rng.uniform(0.45, 1.3)
        change[4:7] = far * np.cos(way), far * np.sin(way), radius * rng.uniform(-0.6, 0.2)
        change[7] = radius * rng.uniform(1.7, 2.1) + 2  # within the reach, so that the box contains all of it
        change[8], change[9] = rng.uniform(0.5, 1.4) + 0.08 * radius, 0.95
    else:
        # Sometimes through one side only.
        way = rng.uniform(0, 2 * np.pi)
        far = radius * rng.uniform(0.05, 0.2)
        change[4], change[5] = far * np.cos(way), far * np.sin(way)
        change[7] = radius * 2 + 2
        change[8], change[9] = rng.uniform(0.5, 0.8) + 0.07 * radius, rng.uniform(0.7, 0.95)
        if rng.random() < 0.4:
            side = rng.uniform(0, 2 * np.pi)
            change[12], change[13], change[14] = np.cos(side), np.sin(side), radius * rng.uniform(-0.5, 0.1)
    centre, reach = shaft.point(place / shaft.length), 2.4 * radius + 3
    return Finding(kind, centre, reach, {index: anatomy.bones[index]}, {index: change})


# Kind of change, least length in mm, then ranges: offset, half axes, width of the edge, roughness, strength[, rim].
_LESIONS: dict[str, tuple[Any, ...]] = {
    "lytic_lesion": (2, 2.0, (0, 0.6), (0.6, 1.1), (0.7, 1.1), (0.9, 1.9), (0.12, 0.3), (0.05, 0.16), (0.7, 0.92),
                     (0, 0.35)),
    "sclerotic_lesion": (3, 1.5, (0, 0.5), (0.65, 1.05), (0.8, 1.2), (0.9, 1.6), (0.3, 0.6), (0.05, 0.15), (1.5, 3.0)),
}  # fmt: skip


def _lesion(kind: str, anatomy: Anatomy, straight: Anatomy, rng: np.random.Generator) -> Finding:
    """A hole, or dense bone, inside a shaft, with a blurred edge."""
    code, least, away, across, deep, along, *rest = _LESIONS[kind]
    index, shaft, place, radius = _site(anatomy, straight, rng)
    change = NO_CHANGE.copy()
    off, way = radius * rng.uniform(*away), rng.uniform(0, 2 * np.pi)
    wide = radius * rng.uniform(*across)
    change[:4] = code, off * np.cos(way), off * np.sin(way), place
    change[4:7] = wide, wide * rng.uniform(*deep), max(wide, least) * rng.uniform(*along)
    change[7 : 7 + len(rest)] = [rng.uniform(*limits) for limits in rest]
    centre = shaft.point(place / shaft.length, (float(change[1]), float(change[2])))
    return Finding(kind, centre, float(change[4:7].max()) * 1.5 + 2, {index: anatomy.bones[index]}, {index: change})


def _degeneration(kind: str, anatomy: Anatomy, straight: Anatomy, rng: np.random.Generator) -> Finding:
    """Osteophytes at a joint's rim, dense bone beneath its surface, and a narrowed gap."""
    joints = [index for index, bone in enumerate(straight.bones) if bone.joint is not None]
    seen = [index for index in joints if _in_sight(straight, _joint_of(straight.bones[index]))]
    index = int(rng.choice(seen or joints))
    bone = anatomy.bones[index]
    shaft, at_end = bone.lofts[0], bone.joint == 1.0
    share = 0.97 if at_end else 0.03
    a, b = (float(value) for value in shaft.table[-10 if at_end else 9, 2:4])
    outwards = shaft.frame[2] * (1 if at_end else -1)
    spurs = []
    for _ in range(int(rng.integers(3, 6))):
        way = rng.uniform(0, 2 * np.pi)
        rim = shaft.point(share, (a * np.cos(way), b * np.sin(way)))
        lean = outwards * rng.uniform(-0.2, 0.9) + shaft.frame[0] * np.cos(way) + shaft.frame[1] * np.sin(way)
        size = (a + b) / 2 * rng.uniform(0.16, 0.3)
        spurs.append(make_ball(rim, (size, size, size * rng.uniform(1.3, 2.2)), along=tuple(lean), wall=0.8))
    middle = shaft.point(1.0 if at_end else 0.0) + outwards * 0.3
    plate = make_ball(middle, (0.95 * a, 0.95 * b, 1.4), along=tuple(shaft.frame[2]), wall=0.8)
    change = NO_CHANGE.copy()
    change[:4] = 3, 0, 0, shaft.length if at_end else 0.0
    change[4:7] = 1.3 * a, 1.3 * b, 0.55 * (a + b)
    change[7], change[8], change[9] = 0.6, 0.1, rng.uniform(0.3, 0.7)
    worn = replace(bone, lofts=(*bone.lofts, plate, *spurs))
    return Finding(kind, _joint_of(bone), 1.6 * max(a, b) + 3, {index: worn}, {index: change})


def _dislocation(kind: str, anatomy: Anatomy, straight: Anatomy, rng: np.random.Generator) -> Finding:
    """Moves the bones beyond a joint away from it."""
    heads = [straight.bones[group[0]] for group in straight.loose]
    seen = [n for n, head in enumerate(heads) if _in_sight(straight, _joint_of(head))]
    group = anatomy.loose[int(rng.choice(seen or range(len(heads))))]
    first = anatomy.bones[group[0]]
    shaft = first.lofts[0]
    radius = shaft.radius(1.0 - 0.04 if first.joint == 1.0 else 0.04)
    way, back = rng.uniform(0, 2 * np.pi), 1 if first.joint == 1.0 else -1
    shift = (shaft.frame[0] * np.cos(way) + shaft.frame[1] * np.sin(way)) * radius * rng.uniform(1.1, 1.8)
    shift = shift + shaft.frame[2] * back * radius * rng.uniform(0.1, 0.7)
    moved = {index: anatomy.bones[index].moved(np.eye(3), shift) for index in group}
    return Finding(kind, _joint_of(first), 1000.0, moved, {})


def _rod(start: np.ndarray, end: np.ndarray, radius: float) -> Loft:
    """A solid cylinder."""
    return make_loft(start, end, [(0, radius, radius), (1, radius, radius)], wall=99.0, caps=(min(radius, 1.0),) * 2)


def _hardware(kind: str, anatomy: Anatomy, straight: Anatomy, rng: np.random.Generator) -> Finding:
    """A plate with screws, crossed wires, or a rod in the canal."""
    _, shaft, place, radius = _site(anatomy, straight, rng)
    u, v, w = shaft.frame.astype(float)
    row = shaft.table[int(np.clip(place / shaft.length, 0, 1) * (len(shaft.table) - 1))]
    centre = shaft.origin + w * place + u * row[0] + v * row[1]
    sort = rng.choice(["plate", "wires", "rod"], p=[0.6, 0.25, 0.15])
    if sort == "wires":
        wires = []
        for sign in (-1, 1):
            lean = w + (u * sign + v * rng.normal(0, 0.4)) * rng.uniform(0.25, 0.6)
            lean /= np.linalg.norm(lean)
            half = radius * rng.uniform(2.2, 3.2) + 4
            thick = float(np.clip(0.09 * radius, 0.4, 1.0))
            wires.append(_rod(centre - lean * half, centre + lean * half, thick))
        return Finding(kind, centre, 200.0, {}, {}, tuple(Body("wire", (wire,)) for wire in wires))
    if sort == "rod":
        half = min(radius * rng.uniform(4, 7), 0.42 * shaft.length)
        pin = _rod(centre - w * half, centre + w * half, radius * 0.42)
        return Finding(kind, centre, 200.0, {}, {}, (Body("rod", (pin,)),))
    way = rng.uniform(0, 2 * np.pi)
    out, side = u * np.cos(way) + v * np.sin(way), -u * np.sin(way) + v * np.cos(way)
    half, wide = float(np.clip(radius * rng.uniform(3.5, 5.5), 8, 45)), float(np.clip(0.5 * radius, 1.5, 5.5))
    thick = float(np.clip(0.14 * radius, 0.5, 1.9))
    off = float(np.hypot(row[2] * np.cos(way), row[3] * np.sin(way))) + thick
    middle = centre + out * off
    count = max(3, round(half / (1.15 * wide)))
    spots = np.linspace(-0.86, 0.86, count) * half
    # Narrower between the holes, like a compression plate.
    shares = np.linspace(0, 1, 25)
    waist = 1 + 0.1 * np.cos(2 * np.pi * ((shares * 2 - 1) / 0.86 * (count - 1) / 2 + (count - 1) / 2))
    rows = [(s, wide * k, thick) for s, k in zip(shares, waist, strict=True)]
    plate = make_loft(middle - w * half, middle + w * half, rows, wall=99.0, caps=(wide, wide))
    plate = replace(plate, frame=np.stack([side, np.cross(w, side), w]).astype(np.float32))
    metal = [Body("plate", (plate,))]
    for spot in spots:
        if rng.random() < 0.14:
            continue  # an empty hole
        head = middle + w * spot
        lean = -out + w * rng.normal(0, 0.08) + side * rng.normal(0, 0.08)
        lean /= np.linalg.norm(lean)
        long = 2 * float(np.hypot(row[2] * np.cos(way), row[3] * np.sin(way))) * rng.uniform(0.92, 1.12) + thick
        shank = float(np.clip(0.19 * radius, 0.6, 1.9))
        shaft_of_screw = _rod(head + out * thick, head + lean * long, shank)
        cap = _rod(head + out * thick * 1.8, head + lean * thick, wide * 0.5)
        metal.append(Body("screw", (shaft_of_screw, cap), 0.2))
    return Finding(kind, centre, 200.0, {}, {}, tuple(metal))


_DRAW = {
    "displaced_fracture": _fracture, "subtle_fracture": _fracture, "hardware": _hardware, "lytic_lesion": _lesion,
    "sclerotic_lesion": _lesion, "degeneration": _degeneration, "dislocation": _dislocation,
}  # fmt: skip
