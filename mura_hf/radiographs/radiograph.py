"""`Radiograph`: the pixels of one view, and nothing about the patient."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One view, windowed for display.

    Attributes:
        pixels: float32 `[H, W]` in [0, 1], bone bright.
        bit_depth: Bits a pixel in the file: 8 or 16, or what a DICOM file calls Bits Stored, 1 to 16.
        source_format: "PNG", "JPEG", "DICOM", or "array" where it did not come from a file.
        body_part: One of the seven where the file says so, else None.
        warnings: Sentences about how it was read that belong beside any answer, for instance that the file held
            several pictures.
        side: "left" or "right" where the file says so, else None.
        patient_mark: Equal for two files that name the same patient, read by this process; tells nothing else, see
            `mark_patient`. None where the file names none.
    """

    pixels: np.ndarray
    bit_depth: int
    source_format: str
    body_part: str | None = None
    warnings: tuple[str, ...] = ()
    side: str | None = None
    patient_mark: str | None = None

    def to_uint8(self) -> np.ndarray:
        """The pixels as uint8 `[H, W]`; exactly those of the file where it has 8 bits and no window of its own."""
        levels = self.pixels * np.float32(255)
        return np.rint(levels, out=levels).astype(np.uint8)

    def to_image(self) -> Image.Image:
        """The pixels as a gray 8-bit PIL image, for instance for a plain transformers pipeline."""
        return Image.fromarray(self.to_uint8())
