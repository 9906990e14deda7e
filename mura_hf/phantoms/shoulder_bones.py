"""Bones of the shoulder girdle and the chest wall. Lengths are round adult values in mm."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .bodies import Loft
from .patient import BodyBuilder


def add_shoulder_girdle(build: BodyBuilder) -> None:
    """Adds scapula, clavicle and the upper ribs, for a humeral head about (-40, -8, 0) and y downwards."""
    s = build.patient.size

    def at(*values: float) -> tuple[float, ...]:
        return tuple(value * s for value in values)

    def loft(
        start: tuple[float, ...], end: tuple[float, ...], rows: Sequence[tuple[float, ...]], **options: Any
    ) -> Loft:
        return build.loft(start, end, [(row[0], *(value * s for value in row[1:])) for row in rows], **options)

    scapula = [
        loft(
            at(14, -22, -16),
            at(40, 106, -30),
            [(0, 14, 2.5, 8, 0), (0.2, 26, 1.6, 14, 0), (0.55, 18, 1.5, 6, 0), (1, 6, 3)],
            wall=[0.8, 0.5, 0.5, 0.9],
            filling=[0.8, 0.2, 0.2, 0.8],
            caps=(3 * s, 5 * s),
            turn=0.3,
        ),
        loft(
            at(-12, -24, -6),
            at(-9, 16, -8),
            [(0, 5, 9), (0.5, 7.5, 14), (1, 5, 10)],
            wall=0.9,
            filling=1.1,
            caps=(6 * s, 6 * s),
        ),
        loft(
            at(-6, 8, -9),
            at(39, 104, -29),
            [(0, 7, 7), (0.5, 3.6, 4.5), (1, 5, 4)],
            wall=1.3,
            filling=0.5,
            caps=(2 * s, 4 * s),
        ),
        loft(
            at(2, -25, -4),
            at(-16, -14, 26),
            [(0, 7, 7), (0.5, 6.5, 6), (1, 5.5, 6)],
            wall=0.9,
            filling=0.8,
            caps=(2 * s, 5 * s),
            bow=(0, 6 * s),
        ),
        loft(
            at(54, -10, -32),
            at(-28, -44, -30),
            [(0, 2.2, 4), (0.5, 4.0, 7), (0.85, 5.5, 9), (1, 5.5, 9)],
            wall=0.9,
            filling=0.6,
            caps=(2 * s, 4 * s),
        ),
        loft(
            at(-24, -43, -30), at(-46, -38, -6), [(0, 8, 5), (1, 8, 4.2)], wall=1.0, filling=0.8, caps=(3 * s, 5 * s)
        ),
    ]
    build.bone("scapula", *scapula, melt=4 * s)
    rows = [(0, 9, 4.6), (0.15, 7.5, 4.8, 0, -5), (0.45, 5.6, 5.6, 0, 3), (0.75, 6, 6.4, 0, 10), (1, 9, 9.5)]
    clavicle = loft(
        at(-38, -43, -4),
        at(110, -34, 18),
        rows,
        wall=[0.9, 1.4, 2.3, 2.1, 1.1],
        filling=[0.9, 0.6, 0.25, 0.4, 0.9],
        caps=(3 * s, 3 * s),
        bow=(-6 * s, 0),
    )
    build.bone("clavicle", clavicle, breakable=(0.12, 0.72))
    for number in range(6):
        reach = 62 + 9 * min(number, 3) + 2 * number
        centre = np.array([128.0, -18.0 + 24.0 * number, -12.0])
        angles = np.linspace(-0.75 * np.pi, 0.62 * np.pi, 13) + np.pi
        # Round the chest and downwards towards the front.
        points = [
            centre + np.array([reach * np.cos(a), 18 * np.sin(a) * -1.0, 0.78 * reach * np.sin(a)]) for a in angles
        ]
        parts = [
            loft(
                tuple((a - 0.12 * (b - a)) * s),  # they overlap, so that no wall stands between them
                tuple((b + 0.12 * (b - a)) * s),
                [(0, 2.6, 5.0), (1, 2.6, 5.0)],
                wall=0.7,
                filling=0.45,
                caps=(0.0, 0.0),
                wobble=0.0,
            )
            for a, b in pairwise(points)
        ]
        build.bone(f"rib {number + 1}", *parts, melt=2.0 * s)
