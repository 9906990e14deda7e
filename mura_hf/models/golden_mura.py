"""The golden check: one picture with the logits that the checkpoint gave it, to be computed again elsewhere."""

import os
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

GOLDEN_FILE = "golden.safetensors"


def write_golden(
    folder: str | os.PathLike[str], model: Any, processor: Any, picture: np.ndarray, body_part: int
) -> None:
    """Writes `golden.safetensors` beside a checkpoint's weights.

    Args:
        folder: The checkpoint.
        model: Of it.
        processor: Of it.
        picture: uint8 `[H, W]`.
        body_part: Index into `BODY_PARTS`.
    """
    tensors = {"picture": torch.from_numpy(np.ascontiguousarray(picture)), "body_part": torch.tensor([body_part])}
    save_file({**tensors, "logits": _answer(model, processor, tensors)}, os.path.join(folder, GOLDEN_FILE))


def golden_difference(folder: str | os.PathLike[str], model: Any, processor: Any) -> float:
    """By how much the logits differ from those of `golden.safetensors` at most; some 1e-5 is rounding.

    Args:
        folder: The checkpoint.
        model: Of it.
        processor: Of it.
    """
    tensors = load_file(os.path.join(folder, GOLDEN_FILE))
    return float((_answer(model, processor, tensors) - tensors["logits"]).abs().max())


def _answer(model: Any, processor: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits `[1, 2]` of the picture, from its gray levels on."""
    pixels = processor(images=[tensors["picture"].numpy()], return_tensors="pt")["pixel_values"]
    given = {"body_parts": tensors["body_part"]} if model.NEEDS_PART else {}
    with torch.no_grad():
        return model.eval()(pixels.to(model.device), **given).logits.float().cpu().contiguous()


__all__ = ["GOLDEN_FILE", "golden_difference", "write_golden"]
