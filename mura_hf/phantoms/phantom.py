"""`Phantom`: a synthetic radiograph with the truth about it."""

from dataclasses import dataclass

import numpy as np

BODY_PARTS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph.

    Attributes:
        pixels: uint8 `[H, W]`, bone bright.
        mask: bool `[H, W]`, pixels that the finding changed; all False where there is none.
        box: (x0, y0, x1, y1) around the finding in pixels, half open; None where none shows in this projection.
        body_part: One of the seven.
        finding: What is abnormal, or None.
        view: Number of the projection.
        seed: The patient's seed.
    """

    pixels: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int] | None
    body_part: str
    finding: str | None
    view: int
    seed: int
