"""What makes a phantom abnormal: a fracture, or a plate with screws, drawn in the coordinates of one bone.

Each function changes the bone's own picture only near the finding, so that the same patient without it is equal
elsewhere.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .projection import Pose, TubeCoordinates
from .skeleton import Anatomy, Tube

FINDINGS = ("fracture", "metal")


@dataclass(frozen=True)
class FindingSite:
    """Where and how a finding sits, the same in every projection.

    Attributes:
        kind: One of `FINDINGS`.
        bone: Index of the bone in the anatomy.
        share: Place along the bone as a share of its length.
        slope: Slope of the fracture line against the bone's cross-section.
        gap: Width of the fracture line in mm.
        shift: Displacement of the far fragment in mm.
        direction: Direction of the displacement, or side of the plate, about the bone's axis in radians.
        jag: Offsets in mm of the fracture line's teeth, `[16]`.
        length: Length of the plate in mm.
        width: Width of the plate in mm.
    """

    kind: str
    bone: int
    share: float
    slope: float
    gap: float
    shift: float
    direction: float
    jag: np.ndarray
    length: float
    width: float


def draw_site(kind: str, anatomy: Anatomy, rng: np.random.Generator) -> FindingSite:
    """Draws bone, place and shape of a finding; small bones are as likely as large ones."""
    candidates = [index for index, bone in enumerate(anatomy.bones) if bone.can_break]
    index = int(rng.choice(candidates))
    bone = anatomy.bones[index]
    middle = float(bone.radii.min())
    return FindingSite(
        kind=kind,
        bone=index,
        share=float(rng.uniform(*bone.visible)),
        slope=float(np.tan(np.deg2rad(rng.uniform(-40, 40)))),
        gap=float(rng.uniform(0.5, 1.2) + 0.06 * middle),
        shift=float(middle * rng.uniform(0.3, 0.9)),
        direction=float(rng.uniform(0, 2 * np.pi)),
        jag=rng.normal(0, 0.09 * middle + 0.15, 16),
        length=float(np.clip(middle * rng.uniform(7, 10), 16, 80)),
        width=float(np.clip(middle * rng.uniform(0.9, 1.3), 3.0, 12.0)),
    )


def _smooth_below(value: np.ndarray, edge: float, softness: float) -> np.ndarray:
    """1 where `value` is well below `edge`, 0 well above, a ramp `softness` wide between."""
    return np.clip((edge - value) / softness + 0.5, 0.0, 1.0)


def break_bone(
    across: np.ndarray, place: TubeCoordinates, site: FindingSite, turn: float
) -> tuple[np.ndarray, np.ndarray]:
    """Displaces the far fragment and opens the fracture line.

    Returns:
        Two `[h, w]` arrays: the distance from the axis after displacement in mm, and the share of bone left (0 in
        the gap).
    """
    teeth = np.interp(across / place.radius, np.linspace(-1, 1, len(site.jag)), site.jag)
    line = place.along - site.share * place.length - site.slope * across - teeth
    # The step is full at the line and gone a little further on, so that the finding has an end.
    reach = 1.6 * float(np.median(place.radius)) + 3.0
    fade = np.cos(np.pi / 2 * np.clip(line / reach, 0.0, 1.0)) ** 2
    shift = (
        site.shift * (0.35 + 0.65 * abs(np.cos(site.direction - turn))) * np.sign(np.cos(site.direction - turn) + 1e-9)
    )
    moved = np.where(line > 0, across - shift * fade, across)
    kept = 1 - 0.9 * _smooth_below(np.abs(line), site.gap / 2, 0.35)
    return moved, kept.astype(np.float32)


def metal_thickness(tube: Tube, place: TubeCoordinates, site: FindingSite, pose: Pose) -> np.ndarray:
    """Thickness in mm of a plate with screws on a bone, `[h, w]` over the bone's window."""
    angle = site.direction - pose.turn
    centre = site.share * place.length
    mean_radius = float(np.interp(site.share, np.linspace(0, 1, len(tube.radii)), tube.radii))
    offset = mean_radius * np.sin(angle)
    half_width = 0.5 * (site.width * abs(np.cos(angle)) + 2.2 * abs(np.sin(angle)))
    inside = _smooth_below(np.abs(place.across - offset), half_width, 0.4)
    inside = inside * _smooth_below(np.abs(place.along - centre), site.length / 2, 0.8)
    thickness = 2.2 * inside / max(abs(np.cos(angle)), 0.35)
    screws = np.zeros(place.along.shape, np.float32)
    pixel = pose.scale
    deep = offset - np.sign(np.sin(angle) + 1e-9) * 2.0 * mean_radius * abs(np.sin(angle))
    count = max(3, int(site.length // (site.width * 1.1)))
    for position in np.linspace(centre - site.length * 0.42, centre + site.length * 0.42, count):
        (r0, c0), (r1, c1) = place.place(position, offset), place.place(position, deep)
        cv2.line(screws, (c0, r0), (c1, r1), 1.0, max(1, round(0.28 * site.width * pixel)), cv2.LINE_AA)
        cv2.circle(screws, (c0, r0), max(1, round(0.36 * site.width * pixel)), 1.0, -1, cv2.LINE_AA)
    return (thickness + 2.5 * screws).astype(np.float32)
