"""Growth plates: a child's long bone ends in an epiphysis of its own."""

from dataclasses import replace

import numpy as np

from .bodies import make_ball
from .patient import BodyBuilder

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
