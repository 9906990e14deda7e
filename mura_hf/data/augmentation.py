"""Random changes to training images: geometry, framing, gray levels, and the quality of pictures from elsewhere."""

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np


@dataclass(frozen=True)
class Change:
    """One drawn change. Its geometry applies to an image and to its mask."""

    flipped: bool  # whether left and right are swapped
    degrees: float  # rotation around the centre, counterclockwise
    scale: float  # scaling factor around the centre
    shift: tuple[float, float]  # shift to the right and down, relative to width and height
    gain: float  # factor of the contrast
    offset: float  # change of brightness in gray levels
    # Relative position of the crop, down and across, each in [0, 1). None for no crop.
    crop: tuple[float, float] | None = None
    zoom: float = 1.0  # factor of the size at which the view is framed: above 1, a part of it fills the image
    gamma: float = 1.0  # exponent of the gray levels
    inverted: bool = False  # whether black and white are exchanged
    # How the picture was degraded on its way, see `degrade`; None if it was not
    quality: tuple[float, float, int] | None = None

    def place(
        self, plane: np.ndarray, size: tuple[int, int] | None = None, interpolation: int = cv2.INTER_LINEAR
    ) -> np.ndarray:
        """Applies the geometry to an image or mask, uint8 `[h, w]`; `size` is that of the crop, if one was drawn."""
        height, width = plane.shape
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.degrees, self.scale)
        matrix[:, 2] += self.shift[0] * width, self.shift[1] * height
        if self.crop is not None and size is not None:
            room = np.subtract(plane.shape, size) + 1
            top, left = (int(place * most) for place, most in zip(self.crop, room, strict=True))
            matrix[:, 2] -= left, top
            height, width = size
        flipped = np.ascontiguousarray(plane[:, ::-1] if self.flipped else plane)
        return cv2.warpAffine(flipped, matrix, (width, height), flags=interpolation)

    def tone(self, plane: np.ndarray) -> np.ndarray:
        """Applies gamma, brightness, contrast and inversion to an image, uint8 `[h, w]`."""
        levels: np.ndarray = np.arange(256, dtype=np.float32)
        if self.gamma != 1:
            levels = 255 * (levels / 255) ** np.float32(self.gamma)
        values = np.clip(np.rint(levels * np.float32(self.gain) + np.float32(self.offset)), 0, 255).astype(np.uint8)
        return cv2.LUT(plane, 255 - values if self.inverted else values)

    def degrade(self, plane: np.ndarray) -> np.ndarray:
        """Applies blur, noise or JPEG compression to an image, uint8 `[h, w]`, as `quality` says.

        Its first number chooses among lower resolution, blur, noise and JPEG; the second is the strength in [0, 1).
        """
        if self.quality is None:
            return plane
        kind, strength, seed = self.quality
        height, width = plane.shape
        if kind < 0.25:  # as a small picture that was enlarged
            side = 1 - 0.6 * strength
            small = cv2.resize(plane, None, fx=side, fy=side, interpolation=cv2.INTER_AREA)
            return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        if kind < 0.5:
            return cv2.GaussianBlur(plane, (0, 0), 0.5 + 1.5 * strength)
        if kind < 0.75:
            noise = np.random.default_rng(seed).normal(0, 2 + 14 * strength, plane.shape)
            return np.clip(np.rint(plane + noise), 0, 255).astype(np.uint8)
        _, content = cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, int(75 - 60 * strength)])
        decoded = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
        assert decoded is not None
        return decoded


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a training image.

    Raises:
        ValueError: If a value is out of its range.
    """

    flip: float = _option(0.5, "Probability of a lateral inversion.")
    rotation: float = _option(30.0, "Largest rotation to either side, in degrees (MURA paper: 30).")
    scale: float = _option(0.1, "Largest relative change of size; .1 means .9 to 1.1.")
    shift: float = _option(0.0, "Largest shift, as a share of the side.")
    brightness: float = _option(0.0, "Largest change of brightness, as a share of the full range.")
    contrast: float = _option(0.0, "Largest relative change of contrast.")
    random_crop: bool = _option(False, "Crop anywhere instead of in the center, if images are resized to more.")
    zoom_in: float = _option(
        1.0,
        "Largest enlargement of a part of the view, which lies around a finding if there is one, else "
        "anywhere on the body. The factor is drawn log-uniformly from 1 / `zoom_out` to `zoom_in`.",
    )
    zoom_out: float = _option(1.0, "Largest reduction of the view, placed anywhere on black.")
    zoom_probability: float = _option(0.5, "Probability of a zoom.")
    gamma_power: float = _option(0.0, "Largest change of gamma, in powers of two; 1: from .5 to 2.")
    inversion: float = _option(0.0, "Probability that black and white are exchanged.")
    degradation: float = _option(0.0, "Probability of one of: lower resolution, blur, noise, JPEG compression.")

    def __post_init__(self) -> None:
        ranges = {
            "flip": (0, 1), "rotation": (0, 180), "scale": (0, 0.9), "shift": (0, 1), "brightness": (0, 1),
            "contrast": (0, 1), "zoom_in": (1, 8), "zoom_out": (1, 8), "zoom_probability": (0, 1),
            "gamma_power": (0, 3), "inversion": (0, 1), "degradation": (0, 1),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:  # also catches NaN
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie in [{low}, {high}]")

    def draw(self, seed: int, epoch: int, index: int) -> Change:
        """Draws the change of an image, given by its row or key, equally in every worker."""
        rng = np.random.default_rng([seed, epoch, index])
        flip, *rest = rng.random(7)
        rotation, scale, right, down, brightness, contrast = (2 * value - 1 for value in rest)
        # Every number is drawn whether it is used or not, so that enabling one change does not affect the others.
        crop = rng.random(18)[:2]  # the rest belongs to changes of former versions
        zoomed, factor, gamma, inverted, degraded, kind, strength = rng.random(7)
        nearest, farthest = np.log(self.zoom_in), -np.log(self.zoom_out)
        zoom = float(np.exp(farthest + factor * (nearest - farthest))) if zoomed < self.zoom_probability else 1.0
        return Change(
            flipped=bool(flip < self.flip),
            degrees=rotation * self.rotation,
            scale=1 + scale * self.scale,
            shift=(right * self.shift, down * self.shift),
            gain=1 + contrast * self.contrast,
            offset=brightness * self.brightness * 255,
            crop=(float(crop[0]), float(crop[1])) if self.random_crop else None,
            zoom=zoom,
            gamma=float(2 ** ((2 * gamma - 1) * self.gamma_power)),
            inverted=bool(inverted < self.inversion),
            quality=(float(kind), float(strength), int(strength * 2**31)) if degraded < self.degradation else None,
        )
