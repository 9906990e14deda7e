"""The golden check: one picture with the logits that the checkpoint gave it, to be computed again elsewhere.

Which weights a checkpoint has: what was made for some must not be used with others.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .configuration_mura import BODY_PARTS

GOLDEN_FILE = "golden.safetensors"


class Golden(NamedTuple):
    """What a golden check holds.

    Attributes:
        picture: uint8 `[H, W]`.
        body_part: Index into `BODY_PARTS`.
        logits: float32 `[1, 2]`, where the checkpoint was made.
    """

    picture: np.ndarray
    body_part: int
    logits: torch.Tensor


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
    tensors = {
        "picture": torch.from_numpy(np.ascontiguousarray(picture)),
        "body_part": torch.tensor([body_part]),
        "logits": _answer(model, processor, picture, body_part),
    }
    save_file(tensors, os.path.join(folder, GOLDEN_FILE))


def read_golden(file: str | os.PathLike[str]) -> Golden:
    """Reads a golden check.

    Raises:
        ValueError: If it is damaged, or holds something else.
    """
    try:
        tensors = load_file(file)
        picture, part, logits = (tensors[name] for name in ("picture", "body_part", "logits"))
        golden = Golden(picture.numpy(), int(part), logits)
    except Exception as error:  # a file may hold anything
        raise ValueError(f"{file} is no golden check that can be read: {error}") from error
    sides = golden.picture.shape
    right = golden.picture.dtype == np.uint8 and len(sides) == 2 and min(sides) >= 16 and max(sides) <= 4096
    if not right or not 0 <= golden.body_part < len(BODY_PARTS) or logits.shape != (1, 2):
        raise ValueError(
            f"{file} is no golden check: it must hold a gray picture, uint8 [H, W] of 16 to 4096 pixels a side, one "
            "of the body parts, and logits [1, 2]"
        )
    return golden


def golden_difference(folder: str | os.PathLike[str], model: Any, processor: Any) -> float:
    """By how much the logits differ from those of `golden.safetensors` at most; some 1e-5 is rounding.

    Args:
        folder: The checkpoint.
        model: Of it.
        processor: Of it.

    Raises:
        ValueError: If the golden check cannot be read.
    """
    golden = read_golden(os.path.join(folder, GOLDEN_FILE))
    return float((_answer(model, processor, golden.picture, golden.body_part) - golden.logits).abs().max())


def _answer(model: Any, processor: Any, picture: np.ndarray, body_part: int) -> torch.Tensor:
    """Logits `[1, 2]` of the picture, from its gray levels on."""
    pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
    given = {"body_parts": torch.tensor([body_part])} if model.NEEDS_PART else {}
    with torch.no_grad():
        return model.eval()(pixels.to(model.device), **given).logits.float().cpu().contiguous()


def digest_weights(checkpoint: str | os.PathLike[str]) -> str:
    """SHA-256 of a checkpoint's `model.safetensors`; of the SHA-256 of its parts where it is in several."""
    files = sorted(Path(checkpoint).glob("model*.safetensors"))
    if len(files) == 1:
        with files[0].open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return digest_files(files)


def digest_files(files: Sequence[Path]) -> str:
    """SHA-256 of the SHA-256 of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


__all__ = [
    "GOLDEN_FILE",
    "Golden",
    "digest_files",
    "digest_weights",
    "golden_difference",
    "read_golden",
    "write_golden",
]
