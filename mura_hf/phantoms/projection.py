"""From tubes in space to path lengths on the detector (parallel beam along z)."""

from dataclasses import dataclass

import numpy as np

from .skeleton import Tube


@dataclass(frozen=True)
class Pose:
    """How a body part lies before the detector.

    Attributes:
        turn: Rotation about the limb's axis in radians (0 is frontal, pi / 2 lateral).
        tilt: Rotation in the plane of the picture in radians.
        mirrored: Whether this is the other side of the body.
        scale: Pixels per mm.
        centre: Point of the anatomy (x, y in mm) that lands in the middle of the picture.
        shape: Height and width of the picture in pixels.
    """

    turn: float
    tilt: float
    mirrored: bool
    scale: float
    centre: tuple[float, float]
    shape: tuple[int, int]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Maps points `[n, 3]` in mm to `[n, 2]` pixel coordinates (x, y)."""
        x = points[:, 0] - self.centre[0]
        y = points[:, 1] - self.centre[1]
        x = np.cos(self.turn) * x + np.sin(self.turn) * points[:, 2]
        x = -x if self.mirrored else x
        tilted = np.stack(
            [np.cos(self.tilt) * x - np.sin(self.tilt) * y, np.sin(self.tilt) * x + np.cos(self.tilt) * y], 1
        )
        return tilted * self.scale + np.array([self.shape[1] / 2, self.shape[0] / 2])


@dataclass(frozen=True)
class TubeCoordinates:
    """Pixels near a projected tube, in the tube's own coordinates (all arrays `[h, w]`, lengths in mm).

    Attributes:
        window: The rows and columns of the picture that the arrays cover.
        along: Arc length from the tube's start.
        across: Signed distance from the axis; beyond an end it grows faster, which flattens the end.
        radius: Outer radius there.
        cortex: Wall thickness there.
        length: Length of the projected axis.
    """

    window: tuple[slice, slice]
    along: np.ndarray
    across: np.ndarray
    radius: np.ndarray
    cortex: np.ndarray
    length: float

    def place(self, along: float, across: float) -> tuple[int, int]:
        """The pixel (row, column) of the window nearest to a point in tube coordinates."""
        distance = (self.along - along) ** 2 + (self.across - across) ** 2
        row, column = np.unravel_index(int(np.argmin(distance)), distance.shape)
        return int(row), int(column)


_END_FLATTENING = 1.9
_MARGIN_MM = 6.0  # room beside the tube for fragments and plates


def tube_coordinates(tube: Tube, pose: Pose) -> TubeCoordinates | None:
    """Finds for each pixel near a tube where along and across the tube it lies; None where the tube is out of the
    picture.
    """
    points = pose.project(tube.axis)
    reach = tube.radii.max() * pose.scale + _MARGIN_MM * pose.scale
    low = np.maximum(np.floor(points.min(0) - reach), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0) + reach) + 1, (pose.shape[1], pose.shape[0])).astype(int)
    if (high <= low).any():
        return None
    columns = np.arange(low[0], high[0], dtype=np.float32)
    rows = np.arange(low[1], high[1], dtype=np.float32)

    steps = np.diff(points, axis=0)
    # Nearest point of the axis, segment by segment, kept in float32: this loop is most of a phantom's time.
    lengths = np.maximum(np.linalg.norm(steps, axis=1), 1e-3)
    starts = np.concatenate([[0.0], np.cumsum(lengths)])
    best = np.full((len(rows), len(columns)), np.inf, np.float32)
    along, across = np.zeros_like(best), np.zeros_like(best)
    last = len(steps) - 1
    for k, (step, length) in enumerate(zip(steps, lengths, strict=True)):
        ux, uy = (step / length).astype(np.float32)
        dx, dy = columns[None, :] - np.float32(points[k, 0]), rows[:, None] - np.float32(points[k, 1])
        free = dx * ux + dy * uy
        held = np.minimum(np.maximum(free, 0), np.float32(length))
        side = dx * uy - dy * ux
        beyond = np.abs(free - held)
        if k in (0, last):
            end = (free < 0) if k == 0 else (free > length)
            if last == 0:
                end = end | (free > length)
            beyond = np.where(end, beyond * _END_FLATTENING, beyond)
        distance = np.hypot(side, beyond)
        nearer = distance < best
        best = np.where(nearer, distance, best)
        across = np.where(nearer, np.copysign(distance, side), across)
        along = np.where(nearer, np.float32(starts[k]) + held, along)
    share = along * np.float32((len(tube.radii) - 1) / starts[-1])
    index = np.minimum(share.astype(int), len(tube.radii) - 2)
    part = share - index
    radii, walls = tube.radii.astype(np.float32), tube.cortex.astype(np.float32)
    radius = radii[index] * (1 - part) + radii[index + 1] * part
    cortex = walls[index] * (1 - part) + walls[index + 1] * part
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    scale = pose.scale
    return TubeCoordinates(window, along / scale, across / scale, radius, cortex, float(starts[-1] / scale))


def path_length(across: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Length in mm that a ray runs inside a round tube, `across` mm beside its axis."""
    return 2 * np.sqrt(np.maximum(radius**2 - across**2, 0.0))
