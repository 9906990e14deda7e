"""The X-ray tube, the pose of the patient, and the detector: a diverging beam."""

from dataclasses import dataclass, replace

import numpy as np

FOCUS_MM = 1050.0
"""Distance from the focus of the tube to the detector in mm."""


def rotation(axis: int, angle: float) -> np.ndarray:
    """Right-handed rotation by `angle` radians about axis 0, 1 or 2."""
    c, s = np.cos(angle), np.sin(angle)
    turned = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turned[i, i], turned[i, j], turned[j, i], turned[j, j] = c, -s, s, c
    return turned


@dataclass(frozen=True)
class Camera:
    """One exposure.

    Attributes:
        pose: float64 `[3, 3]`, rotation from the patient's axes to the room's (z towards the detector).
        centre: float64 `[3]`, point of the patient in front of the centre of the image, in mm.
        gap: Distance from that point to the detector in mm.
        scale: Pixels per mm on the detector.
        mirrored: Whether this is the other side of the body.
        shape: Height and width of the image in pixels.
    """

    pose: np.ndarray
    centre: np.ndarray
    gap: float
    scale: float
    mirrored: bool
    shape: tuple[int, int]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Projects points `[n, 3]` of the patient in mm to pixels `[n, 2]` (column, row)."""
        room = (np.asarray(points, float) - self.centre) @ self.pose.T
        enlarged = FOCUS_MM / (FOCUS_MM - self.gap + room[:, 2])
        across = -room[:, 0] if self.mirrored else room[:, 0]
        pixels = np.stack([across * enlarged, room[:, 1] * enlarged], 1) * self.scale
        return pixels + np.array([(self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2])

    def coarser(self, factor: float) -> "Camera":
        """Returns the same exposure on a detector with pixels about `factor` times as large."""
        shape = (max(1, round(self.shape[0] / factor)), max(1, round(self.shape[1] / factor)))
        return replace(self, scale=self.scale * max(shape) / max(self.shape), shape=shape)

    def rays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Focus, centre of pixel (0, 0), and steps to the right and down, in the patient's coordinates in mm."""
        pitch = 1 / self.scale
        sign = -1.0 if self.mirrored else 1.0
        corner = np.array([sign * (1 - self.shape[1]) / 2 * pitch, (1 - self.shape[0]) / 2 * pitch, self.gap])
        room = (np.array([0, 0, self.gap - FOCUS_MM]), corner)
        back = self.pose
        source, corner = (point @ back + self.centre for point in room)
        right, down = np.array([sign * pitch, 0, 0]) @ back, np.array([0, pitch, 0]) @ back
        return tuple(value.astype(np.float32) for value in (source, corner, right, down))
