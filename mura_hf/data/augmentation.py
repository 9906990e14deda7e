"""Augmentation of gray planes, drawn from (seed, epoch, index) alone."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Change:
    """One drawn change; the same geometry serves a picture and the mask that belongs to it."""

    flipped: bool
    degrees: float
    scale: float
    shift: tuple[float, float]
    gain: float
    offset: float

    def place(self, plane: np.ndarray) -> np.ndarray:
        """Changes the place of what a gray plane shows, uint8 `[h, w]`."""
        return self._move(plane, cv2.INTER_LINEAR)

    def tone(self, plane: np.ndarray) -> np.ndarray:
        """Changes brightness and contrast, uint8 `[h, w]`."""
        values = np.arange(256, dtype=np.float32) * np.float32(self.gain) + np.float32(self.offset)
        return cv2.LUT(plane, np.clip(np.rint(values), 0, 255).astype(np.uint8))

    def regions(self, mask: np.ndarray) -> np.ndarray:
        """Changes the place of a mask, uint8 `[h, w]`, as that of the picture."""
        return self._move(mask, cv2.INTER_NEAREST)

    def _move(self, values: np.ndarray, interpolation: int) -> np.ndarray:
        height, width = values.shape
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.degrees, self.scale)
        matrix[:, 2] += self.shift[0] * width, self.shift[1] * height
        turned = np.ascontiguousarray(values[:, ::-1] if self.flipped else values)
        return cv2.warpAffine(turned, matrix, (width, height), flags=interpolation)


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a training picture.

    Attributes:
        flip: Probability of a lateral inversion.
        rotation: Largest rotation to either side, in degrees (MURA paper: 30).
        scale: Largest relative change of size; .1 means .9 to 1.1.
        shift: Largest shift as a share of the side.
        brightness: Largest change of brightness, as a share of the full range.
        contrast: Largest relative change of contrast.
    """

    flip: float = 0.5
    rotation: float = 30.0
    scale: float = 0.1
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def draw(self, seed: int, epoch: int, index: int) -> Change:
        """Draws the change of one picture.

        Args:
            seed: Of the run.
            epoch: Number of the epoch.
            index: Row of the picture in its dataset; with seed and epoch it fixes the draw, whatever the worker.
        """
        flip, *rest = np.random.default_rng([seed, epoch, index]).random(7)
        turn, scale, right, down, light, contrast = (2 * value - 1 for value in rest)
        return Change(
            flipped=bool(flip < self.flip),
            degrees=turn * self.rotation,
            scale=1 + scale * self.scale,
            shift=(right * self.shift, down * self.shift),
            gain=1 + contrast * self.contrast,
            offset=light * self.brightness * 255,
        )
