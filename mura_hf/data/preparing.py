"""One file through the deterministic half of its road, which can be kept."""

from dataclasses import dataclass

import numpy as np

from ..models.image_processing_mura import MuraImageProcessor
from ..radiographs import read_levels


@dataclass(frozen=True, eq=False)
class PreparedView:
    """A view, read and prepared.

    Attributes:
        plane: uint8 `[h, w]`, of the processor's size.
        shape: Height and width of the file's picture in pixels.
        field: What the processor kept of it: x0, y0, x1, y1 in pixels, half open.
    """

    plane: np.ndarray
    shape: tuple[int, int]
    field: tuple[int, int, int, int]


def prepare_view(source: str | bytes, processor: MuraImageProcessor, name: str | None = None) -> PreparedView:
    """Reads a file, or its bytes, as `StudyPredictor` does, and prepares it.

    Raises:
        RadiographError: If it cannot be read.
    """
    pixels = read_levels(source, name=name)  # the same as the processor's gray_plane makes of a radiograph
    field = processor.find_field(pixels)
    return PreparedView(processor.prepare_plane(pixels), (pixels.shape[0], pixels.shape[1]), field)
