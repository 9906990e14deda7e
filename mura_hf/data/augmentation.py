"""Augmentation of gray planes, drawn from (seed, epoch, index) alone."""

from dataclasses import dataclass, field

import cv2
import numpy as np


@dataclass(frozen=True)
class Change:
    """One drawn change; the same geometry serves a picture and the mask that belongs to it.

    Attributes:
        flipped: Whether left and right change places.
        degrees: Rotation around the middle, counterclockwise.
        scale: Of size, around the middle.
        shift: To the right and down, as shares of width and height.
        gain: Of contrast.
        offset: Of brightness, in gray levels.
        crop: None, or where the crop lies in the room there is for it, each in [0, 1): down, across.
        window: None, or the share of the area and the aspect (width over height) of a crop that is resized.
        holes: Middle and side of each square hole, as shares of the picture: down, across, side.
    """

    flipped: bool
    degrees: float
    scale: float
    shift: tuple[float, float]
    gain: float
    offset: float
    crop: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    holes: tuple[tuple[float, float, float], ...] = ()

    def place(self, plane: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Changes the place of what a gray plane shows, uint8 `[h, w]`.

        Args:
            plane: The picture.
            size: Height and width of the crop, where one was drawn; the plane's own where None.
        """
        return self._move(plane, size, cv2.INTER_LINEAR)

    def regions(self, mask: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Changes the place of a mask, uint8 `[h, w]`, as that of the picture."""
        return self._move(mask, size, cv2.INTER_NEAREST)

    def tone(self, plane: np.ndarray) -> np.ndarray:
        """Changes brightness and contrast, uint8 `[h, w]`."""
        values = np.arange(256, dtype=np.float32) * np.float32(self.gain) + np.float32(self.offset)
        return cv2.LUT(plane, np.clip(np.rint(values), 0, 255).astype(np.uint8))

    def erase(self, plane: np.ndarray) -> np.ndarray:
        """Blackens the holes in a plane or mask, uint8 `[h, w]`."""
        if not self.holes:
            return plane
        erased, (height, width) = plane.copy(), plane.shape
        for down, across, side in self.holes:
            half = side * min(height, width) / 2
            rows = slice(max(0, round(down * height - half)), round(down * height + half))
            erased[rows, max(0, round(across * width - half)) : round(across * width + half)] = 0
        return erased

    def _move(self, values: np.ndarray, size: tuple[int, int] | None, interpolation: int) -> np.ndarray:
        height, width = values.shape
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.degrees, self.scale)
        matrix[:, 2] += self.shift[0] * width, self.shift[1] * height
        turned = np.ascontiguousarray(values[:, ::-1] if self.flipped else values)
        if self.crop is not None and size is not None:
            matrix = self._crop(values.shape, size) @ np.vstack([matrix, (0, 0, 1)])
            height, width = size
        return cv2.warpAffine(turned, matrix, (width, height), flags=interpolation)

    def _crop(self, shape: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
        """What moves the crop of a picture onto the size that is wanted, float64 `[2, 3]`."""
        assert self.crop is not None
        down, across = self.crop
        if self.window is None:
            top, left = (
                int(place * (room + 1)) for place, room in zip(self.crop, np.subtract(shape, size), strict=True)
            )
            return np.array([[1.0, 0, -left], [0, 1, -top]])
        area, aspect = self.window
        rows = min(shape[0], np.sqrt(area * shape[0] * shape[1] / aspect))
        columns = min(shape[1], np.sqrt(area * shape[0] * shape[1] * aspect))
        top, left = down * (shape[0] - rows), across * (shape[1] - columns)
        larger = np.diag([size[1] / columns, size[0] / rows])
        return np.hstack([larger, larger @ [[0.5 - left], [0.5 - top]] - 0.5])  # middles of pixels, not corners


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a training image.

    Raises:
        ValueError: If a value is out of its range, or both ways to crop are chosen.
    """

    flip: float = field(default=0.5, metadata={"help": "Probability of a lateral inversion."})
    rotation: float = field(
        default=30.0, metadata={"help": "Largest rotation to either side, in degrees (MURA paper: 30)."}
    )
    scale: float = field(default=0.1, metadata={"help": "Largest relative change of size; .1 means .9 to 1.1."})
    shift: float = field(default=0.0, metadata={"help": "Largest shift, as a share of the side."})
    brightness: float = field(
        default=0.0, metadata={"help": "Largest change of brightness, as a share of the full range."}
    )
    contrast: float = field(default=0.0, metadata={"help": "Largest relative change of contrast."})
    random_crop: bool = field(
        default=False, metadata={"help": "Crop anywhere instead of in the center, if images are resized to more."}
    )
    resized_crop: float = field(
        default=1.0,
        metadata={"help": "Smallest share of the area that is cropped and resized (arXiv 1409.4842: .08); 1 is off."},
    )
    resized_crop_aspect: float = field(default=4 / 3, metadata={"help": "Largest change of its aspect ratio."})
    erasing: float = field(
        default=0.0, metadata={"help": "Probability that holes are blackened (cutout, arXiv 1708.04552)."}
    )
    erasing_holes: int = field(default=4, metadata={"help": "Largest number of holes."})
    erasing_side: float = field(
        default=0.2, metadata={"help": "Largest side of a hole, as a share of the image's shorter side."}
    )

    def __post_init__(self) -> None:
        ranges = {
            "flip": (0, 1), "rotation": (0, 180), "scale": (0, 0.9), "shift": (0, 1), "brightness": (0, 1),
            "contrast": (0, 1), "resized_crop": (0.01, 1), "resized_crop_aspect": (1, 4), "erasing": (0, 1),
            "erasing_holes": (1, 64), "erasing_side": (0.01, 1),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:  # also catches NaN
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie in [{low}, {high}]")
        if self.random_crop and self.resized_crop < 1:
            raise ValueError("random_crop and resized_crop are two ways to crop; choose one")

    def draw(self, seed: int, epoch: int, index: int) -> Change:
        """Draws the change of one picture.

        Args:
            seed: Of the run.
            epoch: Number of the epoch.
            index: Row of the picture in its dataset; with seed and epoch it fixes the draw, whatever the worker.
        """
        rng = np.random.default_rng([seed, epoch, index])
        flip, *rest = rng.random(7)
        turn, scale, right, down, light, contrast = (2 * value - 1 for value in rest)
        # Each number has its place in the sequence, used or not, so that switching one thing on moves no other.
        place, area, aspect, erased, holes = tuple(rng.random(2)), *rng.random(4)
        resized = self.resized_crop < 1
        middles = rng.random((self.erasing_holes, 3)) * (1, 1, self.erasing_side)
        n_holes = 1 + int(holes * self.erasing_holes) if erased < self.erasing else 0
        return Change(
            flipped=bool(flip < self.flip),
            degrees=turn * self.rotation,
            scale=1 + scale * self.scale,
            shift=(right * self.shift, down * self.shift),
            gain=1 + contrast * self.contrast,
            offset=light * self.brightness * 255,
            crop=(float(place[0]), float(place[1])) if resized or self.random_crop else None,
            window=(
                self.resized_crop + area * (1 - self.resized_crop),
                float(self.resized_crop_aspect ** (2 * aspect - 1)),
            )
            if resized
            else None,
            holes=tuple((float(down), float(across), float(side)) for down, across, side in middles[:n_holes]),
        )
