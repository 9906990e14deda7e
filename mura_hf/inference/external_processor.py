"""Image processors of external checkpoints: gray levels in, heatmaps back to the original image."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import CheckpointError
from ..models.geometry_mura import to_gray_plane

_MARGIN = 0.1  # share of a side that is ignored at either end, where interpolation distorts the ramp


class ExternalProcessor:
    """Runs radiographs through an image processor for 8-bit colour images, and maps heatmaps back.

    Args:
        processor: Any image processor of transformers, including the wrapper of timm.
        gray: Whether the model has one input channel, so that the processor gets grayscale images.
    """

    def __init__(self, processor: Any, *, gray: bool = False) -> None:
        self.processor = processor
        self._mode = "L" if gray else "RGB"
        self._window = lru_cache(maxsize=64)(self._measure)

    def __call__(self, images: Sequence[Any], return_tensors: str = "pt") -> dict[str, torch.Tensor]:
        """Returns `pixel_values`, float32 `[V, C, H, W]`, of images as `gray_plane` takes them."""
        return {"pixel_values": self._run([Image.fromarray(self.gray_plane(image)) for image in images])}

    def save_pretrained(self, save_directory: Any) -> None:
        """Saves the image processor."""
        self.processor.save_pretrained(save_directory)

    def gray_plane(self, image: Any) -> np.ndarray:
        """Returns an image as gray levels, uint8 `[H, W]`, like `MuraImageProcessor.gray_plane`."""
        return to_gray_plane(image)

    def find_field(self, plane: np.ndarray) -> tuple[int, int, int, int]:
        """Returns x0, y0, x1, y1 of the processor's input: the whole image."""
        return 0, 0, plane.shape[1], plane.shape[0]

    def restore_map(
        self, values: np.ndarray, height: int, width: int, field: tuple[int, int, int, int] | None = None
    ) -> np.ndarray:
        """Maps a heatmap back, like `MuraImageProcessor.restore_map`; it is 0 outside of what the model saw.

        Raises:
            CheckpointError: If the part of the image that the model sees cannot be determined.
        """
        left, top, right, bottom = self._window(height, width)
        rows = _weights(values.shape[0], height, top, bottom)
        columns = _weights(values.shape[1], width, left, right)
        return rows @ np.asarray(values, np.float32) @ columns.T

    def _run(self, pictures: list[Image.Image]) -> torch.Tensor:
        pixel_values = self.processor(
            images=[picture.convert(self._mode) for picture in pictures], return_tensors="pt"
        )["pixel_values"]
        if not isinstance(pixel_values, torch.Tensor) or pixel_values.ndim != 4 or len(pixel_values) != len(pictures):
            raise CheckpointError(
                f"its image processor, {type(self.processor).__name__}, does not return one array [channels, "
                "height, width] per image"
            )
        return pixel_values.float()

    def _measure(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Measures what the model sees of images of a size, by processing gray ramps. Works for any linear geometry.

        Returns left, top, right and bottom in pixels of the image; they lie outside of it if the processor pads.
        """
        black, white = (self._run([Image.new("L", (width, height), level)])[0, 0] for level in (0, 255))
        across = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
        down = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
        reached = (white - black).abs() > 0.5 * (white - black).abs().amax()  # padding is equal in both
        edges = []
        for ramp, side, axis in ((across, width, 1), (down, height, 0)):
            levels = self._run([Image.fromarray(np.rint(ramp * 255).astype(np.uint8))])[0, 0]
            shares = torch.where(reached, (levels - black) / (white - black), torch.nan)
            edges.append(_fit_edges(torch.nanmean(shares, dim=1 - axis).double().numpy() * side, side))
        (left, right), (top, bottom) = edges
        return left, top, right, bottom


def _fit_edges(places: np.ndarray, side: int) -> tuple[float, float]:
    """First and last edge of the visible part along one axis, from the centre of each processed pixel (NaN outside).

    All of them are in pixels of the original, whose length is `side`.
    """
    inside = np.flatnonzero(np.isfinite(places))
    margin = int(np.ceil(_MARGIN * len(inside)))
    kept = inside[margin : len(inside) - margin]
    if len(kept) >= 2:
        slope, start = np.polyfit(kept + 0.5, places[kept], 1)
        error = np.abs(slope * (kept + 0.5) + start - places[kept]).max()
        seen = slope * len(places)
        if seen > side / 100 and error <= side / 128 + slope:  # two gray levels of the ramp, and a processed pixel
            return float(start), float(start + seen)
    raise CheckpointError(
        "the part of an image that the image processor of this checkpoint shows to the model cannot be determined"
    )


def _weights(source: int, target: int, first: float, last: float) -> np.ndarray:
    """Bilinear interpolation along one axis, float32 `[target, source]`, of a map between two edges in target pixels.

    Rows of pixels outside are zero.
    """
    middles = np.arange(target) + 0.5
    place = (middles - first) / (last - first) * source - 0.5
    seen = (middles >= first) & (middles < last)
    below = np.clip(np.floor(place), 0, source - 1).astype(int)
    above = np.minimum(below + 1, source - 1)
    share = np.clip(place - below, 0, 1)
    weights = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    np.add.at(weights, (rows, below), np.where(seen, 1 - share, 0))
    np.add.at(weights, (rows, above), np.where(seen, share, 0))
    return weights
