"""Objects in the beam that are not findings: plaster, jewellery, the side marker, the collimator."""

from dataclasses import replace

import cv2
import numpy as np

from .anatomy import Anatomy
from .solids import SAMPLES, Body, make_loft


def make_cast(anatomy: Anatomy, rng: np.random.Generator) -> Body:
    """Makes a plaster shell around the flesh."""
    away, thick = rng.uniform(1.5, 3.5), rng.uniform(3.0, 6.0)
    lofts = []
    for loft in anatomy.flesh.lofts:
        table = loft.table.copy()
        table[:, 2:4] += away + thick
        table[:, 4] = thick * (1 + 0.15 * np.sin(np.linspace(0, rng.uniform(9, 20), SAMPLES)))
        table[:, 5] = 0.0
        lofts.append(replace(loft, table=table))
    return Body("cast", tuple(lofts), anatomy.flesh.melt)


def make_jewel(anatomy: Anatomy, rng: np.random.Generator) -> Body | None:
    """Makes a ring on a finger or a bracelet at the wrist; None for other body parts."""
    fingers = [bone for bone in anatomy.bones if bone.name.startswith("proximal phalanx")]
    if anatomy.body_part in ("hand", "finger") and fingers:
        shaft = fingers[int(rng.integers(len(fingers)))].lofts[0]
        inner, long, wall, share = 1.9 * shaft.radius(0.5), rng.uniform(1.5, 3.0), 1.1, 0.35
    elif anatomy.body_part in ("wrist", "forearm"):
        shaft = next(bone for bone in anatomy.bones if bone.name == "radius").lofts[0]
        inner, long, wall, share = 29.0 * anatomy.patient.size, rng.uniform(3.0, 7.0), 1.0, rng.uniform(0.1, 0.2)
    else:
        return None
    middle = shaft.point(share) + (shaft.frame[0] * 9 * anatomy.patient.size if inner > 15 else 0)
    lean = shaft.frame[2] + rng.normal(0, 0.08, 3)
    lean /= np.linalg.norm(lean)
    outer = inner + wall
    ring = make_loft(
        middle - lean * long / 2,
        middle + lean * long / 2,
        [(0, outer, outer * 0.85), (1, outer, outer * 0.85)],
        wall=wall,
        filling=0.0,
        caps=(0.0, 0.0),
    )
    return Body("ring", (ring,), 0.1)


def draw_marker(shape: tuple[int, int], letter: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a lead letter near a border, attenuation as float32 `[H, W]`."""
    height, width = shape
    canvas = np.zeros(shape, np.uint8)
    size = rng.uniform(0.7, 1.5) * max(height, width) / 512
    thickness = max(1, round(size * rng.uniform(2.0, 4.0)))
    x = int(width * (rng.uniform(0.03, 0.12) if rng.random() < 0.5 else rng.uniform(0.82, 0.9)))
    y = int(height * rng.uniform(0.1, 0.9))
    cv2.putText(
        canvas,
        letter,
        (x, y),
        int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX])),
        size,
        255,
        thickness,
        cv2.LINE_AA,
    )
    turned = cv2.getRotationMatrix2D((float(x), float(y)), float(rng.normal(0, 12)), 1.0)
    canvas = cv2.warpAffine(canvas, turned, (width, height))
    return canvas.astype(np.float32) * np.float32(rng.uniform(1.0, 2.2) / 255)


def collimation(shape: tuple[int, int], rng: np.random.Generator, collimated: bool | None = None) -> np.ndarray:
    """Transmission of the collimator, float32 `[H, W]` in [0, 1]: dark outside of its slightly rotated blades."""
    height, width = shape
    drawn = bool(rng.random() >= 0.45)  # always drawn, so that the blades keep their position
    if not (drawn if collimated is None else collimated):
        return np.ones(shape, np.float32)
    inset = rng.uniform(-0.03, 0.09, 4)
    corners = np.array([
        (inset[0] * width, inset[1] * height), ((1 - inset[2]) * width, inset[1] * height),
        ((1 - inset[2]) * width, (1 - inset[3]) * height), (inset[0] * width, (1 - inset[3]) * height)
    ])  # fmt: skip
    turn = rng.normal(0, 0.05)
    middle = np.array([width / 2, height / 2])
    c, s = np.cos(turn), np.sin(turn)
    corners = (corners - middle) @ np.array([[c, s], [-s, c]]) + middle
    opened = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(opened, np.round(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(opened, (0, 0), 1.2).astype(np.float32) / 255 * 0.98 + 0.02
