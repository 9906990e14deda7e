"""The image processor of someone else's checkpoint, as `StudyPredictor` uses one."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..errors import CheckpointError
from ..models.geometry_mura import to_gray_plane

_INNER = 0.1  # share of a side that is left out at either end: interpolation bends the ramp there


class Window(NamedTuple):
    """What of a picture a model is fed, in the picture's own pixels; it may reach beyond the picture's edges."""

    left: float
    top: float
    right: float
    bottom: float


class ExternalProcessor:
    """Feeds radiographs to a processor that was made for 8-bit colour pictures, and lays maps back over them.

    Args:
        processor: Any image processor of transformers, timm's among them.
        gray: Whether the model takes one channel, so that the processor is given gray pictures.
    """

    def __init__(self, processor: Any, *, gray: bool = False) -> None:
        self.processor = processor
        self._mode = "L" if gray else "RGB"
        self._window = lru_cache(maxsize=64)(self._measure)

    def __call__(self, images: Sequence[Any], return_tensors: str = "pt") -> dict[str, torch.Tensor]:
        """`pixel_values`, float32 `[V, C, H, W]`, of pictures as `gray_plane` takes them."""
        return {"pixel_values": self._run([Image.fromarray(self.gray_plane(image)) for image in images])}

    def gray_plane(self, image: Any) -> np.ndarray:
        """One picture as a gray plane, uint8 `[H, W]`; as `MuraImageProcessor.gray_plane`."""
        return to_gray_plane(image)

    def find_field(self, plane: np.ndarray) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of what is given to the processor: the whole picture."""
        return 0, 0, plane.shape[1], plane.shape[0]

    def restore_map(
        self, values: np.ndarray, height: int, width: int, field: tuple[int, int, int, int] | None = None
    ) -> np.ndarray:
        """Lays a map that was computed on `pixel_values` back over the original picture.

        Args:
            values: float32 `[h, w]`, covering `pixel_values`, at any resolution.
            height: Height of the original in pixels.
            width: Width of the original in pixels.
            field: From `find_field`; always the whole picture.

        Returns:
            float32 `[height, width]`; 0 where the model saw nothing.

        Raises:
            CheckpointError: If it cannot be told which part of the picture the model sees.
        """
        window = self._window(height, width)
        rows = _weights(values.shape[0], height, window.top, window.bottom)
        columns = _weights(values.shape[1], width, window.left, window.right)
        return rows @ np.asarray(values, np.float32) @ columns.T

    def _run(self, pictures: list[Image.Image]) -> torch.Tensor:
        pixel_values = self.processor(
            images=[picture.convert(self._mode) for picture in pictures], return_tensors="pt"
        )["pixel_values"]
        if not isinstance(pixel_values, torch.Tensor) or pixel_values.ndim != 4 or len(pixel_values) != len(pictures):
            raise CheckpointError(
                f"its image processor, {type(self.processor).__name__}, does not give one picture [channels, height, "
                "width] for one picture, which a view of a study needs"
            )
        return pixel_values.float()

    def _measure(self, height: int, width: int) -> Window:
        """What the model sees of pictures of a size: found by processing ramps of gray, whatever the processor does.

        Raises:
            CheckpointError: If what comes out is no ramp.
        """
        black, white = (self._run([Image.new("L", (width, height), level)])[0, 0] for level in (0, 255))
        across = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
        down = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
        reached = (white - black).abs() > 0.5 * (white - black).abs().amax()  # padding has one tone in both
        edges = []
        for ramp, side, axis in ((across, width, 1), (down, height, 0)):
            levels = self._run([Image.fromarray(np.rint(ramp * 255).astype(np.uint8))])[0, 0]
            shares = torch.where(reached, (levels - black) / (white - black), torch.nan)
            edges.append(_fit_edges(torch.nanmean(shares, dim=1 - axis).double().numpy() * side, side))
        (left, right), (top, bottom) = edges
        return Window(left, top, right, bottom)


def _fit_edges(places: np.ndarray, side: int) -> tuple[float, float]:
    """First and last edge of what is seen along one axis.

    Args:
        places: Of each processed pixel, where its middle lies in the original, in pixels; NaN where it lies outside.
        side: Of the original, in pixels.
    """
    inside = np.flatnonzero(np.isfinite(places))
    margin = int(np.ceil(_INNER * len(inside)))
    kept = inside[margin : len(inside) - margin]
    if len(kept) >= 2:
        slope, start = np.polyfit(kept + 0.5, places[kept], 1)
        error = np.abs(slope * (kept + 0.5) + start - places[kept]).max()
        seen = slope * len(places)
        if seen > side / 100 and error <= side / 128 + slope:  # two gray levels of the ramp, and a processed pixel
            return float(start), float(start + seen)
    raise CheckpointError(
        "it cannot be told which part of a picture this checkpoint's image processor shows the model"
    )


def _weights(source: int, target: int, first: float, last: float) -> np.ndarray:
    """Bilinear interpolation along one axis, float32 `[target, source]`, from a map that lies between two edges, in
    pixels of the target; rows of pixels outside are zero.
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
