"""The golden check of a checkpoint: made of a phantom, so that it can be passed on whatever the weights have seen."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from transformers import AutoModelForImageClassification

from ..models import BODY_PARTS, MuraImageProcessor, write_golden
from ..phantoms import render_phantom

GOLDEN_SEED = 820_000
_PART = "wrist"


@lru_cache(maxsize=len(BODY_PARTS))
def golden_picture(body_part: str = _PART) -> np.ndarray:
    """The phantom of every golden check, uint8 `[H, W]`, not to be written to."""
    picture = render_phantom(GOLDEN_SEED, body_part=body_part, finding="displaced_fracture").pixels
    picture.setflags(write=False)  # kept for the next one who asks
    return picture


def make_golden(folder: str | Path) -> None:
    """Writes `golden.safetensors` beside a checkpoint's weights; to be done again when weights or calibration change.

    Args:
        folder: The checkpoint.
    """
    model = AutoModelForImageClassification.from_pretrained(folder)
    # Of a part that every model knows: one for single parts may lack the others.
    part = next(iter(getattr(model, "members", None) or [_PART])) if model.NEEDS_PART else _PART
    processor = MuraImageProcessor.from_pretrained(folder)
    write_golden(folder, model, processor, golden_picture(part).copy(), BODY_PARTS.index(part))
