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
    # Relative area and aspect ratio (width over height) of a crop that is resized, or None
    window: tuple[float, float] | None = None
    holes: tuple[tuple[float, float, float], ...] = ()  # relative centre (down, across) and side of each square hole
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
            matrix = self._crop_matrix(plane.shape, size, self.crop) @ np.vstack([matrix, (0, 0, 1)])
            height, width = size
        flipped = np.ascontiguousarray(plane[:, ::-1] if self.flipped else plane)
        return cv2.warpAffine(flipped, matrix, (width, height), flags=interpolation)

    def _crop_matrix(self, shape: tuple[int, ...], size: tuple[int, int], crop: tuple[float, float]) -> np.ndarray:
        """Returns the matrix that maps the crop of an image to the output size, float64 `[2, 3]`."""
        if self.window is None:
            top, left = (int(place * (room + 1)) for place, room in zip(crop, np.subtract(shape, size), strict=True))
            return np.array([[1.0, 0, -left], [0, 1, -top]])
        area, aspect = self.window
        rows = min(shape[0], np.sqrt(area * shape[0] * shape[1] / aspect))
        columns = min(shape[1], np.sqrt(area * shape[0] * shape[1] * aspect))
        top, left = crop[0] * (shape[0] - rows), crop[1] * (shape[1] - columns)
        zoom = np.diag([size[1] / columns, size[0] / rows])
        return np.hstack([zoom, zoom @ [[0.5 - left], [0.5 - top]] - 0.5])  # centres of pixels, not corners

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

    def erase(self, plane: np.ndarray) -> np.ndarray:
        """Sets the holes in an image or mask, uint8 `[h, w]`, to 0."""
        if not self.holes:
            return plane
        erased, (height, width) = plane.copy(), plane.shape
        for down, across, side in self.holes:
            half = side * min(height, width) / 2
            rows = slice(max(0, round(down * height - half)), round(down * height + half))
            erased[rows, max(0, round(across * width - half)) : round(across * width + half)] = 0
        return erased


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a training image.

    Raises:
        ValueError: If a value is out of its range, or both ways to crop are chosen.
    """

    flip: float = _option(0.5, "Probability of a lateral inversion.")
    rotation: float = _option(30.0, "Largest rotation to either side, in degrees (MURA paper: 30).")
    scale: float = _option(0.1, "Largest relative change of size; .1 means .9 to 1.1.")
    shift: float = _option(0.0, "Largest shift, as a share of the side.")
    brightness: float = _option(0.0, "Largest change of brightness, as a share of the full range.")
    contrast: float = _option(0.0, "Largest relative change of contrast.")
    random_crop: bool = _option(False, "Crop anywhere instead of in the center, if images are resized to more.")
    resized_crop: float = _option(
        1.0, "Smallest share of the area that is cropped and resized (arXiv 1409.4842: .08); 1 is off."
    )
    resized_crop_aspect: float = _option(4 / 3, "Largest change of its aspect ratio.")
    erasing: float = _option(0.0, "Probability that holes are blackened (cutout, arXiv 1708.04552).")
    erasing_holes: int = _option(4, "Largest number of holes.")
    erasing_side: float = _option(0.2, "Largest side of a hole, as a share of the image's shorter side.")

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
            "contrast": (0, 1), "resized_crop": (0.01, 1), "resized_crop_aspect": (1, 4), "erasing": (0, 1),
            "erasing_holes": (1, 64), "erasing_side": (0.01, 1), "zoom_in": (1, 8), "zoom_out": (1, 8),
            "zoom_probability": (0, 1), "gamma_power": (0, 3), "inversion": (0, 1), "degradation": (0, 1),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:  # also catches NaN
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie in [{low}, {high}]")
        if self.random_crop and self.resized_crop < 1:
            raise ValueError("random_crop and resized_crop exclude each other; choose one")

    def draw(self, seed: int, epoch: int, index: int) -> Change:
        """Draws the change of an image, given by its row or key, equally in every worker."""
        rng = np.random.default_rng([seed, epoch, index])
        flip, *rest = rng.random(7)
        rotation, scale, right, down, brightness, contrast = (2 * value - 1 for value in rest)
        # Every number is drawn whether it is used or not, so that enabling one change does not affect the others.
        place, area, aspect, erased, holes = tuple(rng.random(2)), *rng.random(4)
        resized = self.resized_crop < 1
        centres = rng.random((self.erasing_holes, 3)) * (1, 1, self.erasing_side)
        n_holes = 1 + int(holes * self.erasing_holes) if erased < self.erasing else 0
        zoomed, factor, gamma, inverted, degraded, kind, strength = rng.random(7)
        nearest, farthest = np.log(self.zoom_in), -np.log(self.zoom_out)
        zoom = float(np.exp(farthest + factor * (nearest - farthest))) if zoomed < self.zoom_probability else 1.0
        window = None
        if resized:
            share = self.resized_crop + area * (1 - self.resized_crop)
            window = (share, float(self.resized_crop_aspect ** (2 * aspect - 1)))
        return Change(
            flipped=bool(flip < self.flip),
            degrees=rotation * self.rotation,
            scale=1 + scale * self.scale,
            shift=(right * self.shift, down * self.shift),
            gain=1 + contrast * self.contrast,
            offset=brightness * self.brightness * 255,
            crop=(float(place[0]), float(place[1])) if resized or self.random_crop else None,
            window=window,
            holes=tuple((float(down), float(across), float(side)) for down, across, side in centres[:n_holes]),
            zoom=zoom,
            gamma=float(2 ** ((2 * gamma - 1) * self.gamma_power)),
            inverted=bool(inverted < self.inversion),
            quality=(float(kind), float(strength), int(strength * 2**31)) if degraded < self.degradation else None,
        )
