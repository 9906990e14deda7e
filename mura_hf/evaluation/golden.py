"""The golden check of a checkpoint: its output for one phantom, which a loaded model must reproduce."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from transformers import AutoModelForImageClassification

from ..models import BODY_PARTS, MuraImageProcessor, write_golden
from ..phantoms import render_phantom

GOLDEN_SEED = 820_000
_BODY_PART = "wrist"


@lru_cache(maxsize=len(BODY_PARTS))
def golden_image(body_part: str = _BODY_PART) -> np.ndarray:
    """Returns the phantom of every golden check, uint8 `[H, W]`, read-only.

    A phantom can be shared with any checkpoint, whatever images it was trained on.
    """
    image = render_phantom(GOLDEN_SEED, body_part=body_part, finding="displaced_fracture").pixels
    image.setflags(write=False)
    return image


def write_golden_check(folder: str | Path) -> None:
    """Writes `golden.safetensors` to a checkpoint folder. Repeat it whenever weights or calibration change."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    # A model for single body parts may lack the wrist.
    part = next(iter(getattr(model, "members", None) or [_BODY_PART])) if model.NEEDS_PART else _BODY_PART
    processor = MuraImageProcessor.from_pretrained(folder)
    write_golden(folder, model, processor, golden_image(part).copy(), BODY_PARTS.index(part))
