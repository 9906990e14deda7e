"""The golden check: an image with the logits of the checkpoint, to verify results on another machine.

Also the digest that identifies the weights of a checkpoint, so that files made for other weights are recognized.
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
    """A picture, uint8 `[H, W]`, index of its body part, and logits `[1, 2]` from where the checkpoint was made."""

    picture: np.ndarray
    body_part: int
    logits: torch.Tensor


def write_golden(
    folder: str | os.PathLike[str], model: Any, processor: Any, picture: np.ndarray, body_part: int
) -> None:
    """Writes `golden.safetensors` into a checkpoint folder, for a picture, uint8 `[H, W]`, of a body part."""
    tensors = {
        "picture": torch.from_numpy(np.ascontiguousarray(picture)),
        "body_part": torch.tensor([body_part]),
        "logits": _predict(model, processor, picture, body_part),
    }
    save_file(tensors, os.path.join(folder, GOLDEN_FILE))


def read_golden(file: str | os.PathLike[str]) -> Golden:
    """Reads a golden check.

    Raises:
        ValueError: If the file is damaged or holds something else.
    """
    try:
        tensors = load_file(file)
        picture, part, logits = (tensors[name] for name in ("picture", "body_part", "logits"))
        golden = Golden(picture.numpy(), int(part), logits)
    except Exception as error:  # a file may hold anything
        raise ValueError(f"{file} is not a readable golden check: {error}") from error
    sides = golden.picture.shape
    is_image = golden.picture.dtype == np.uint8 and len(sides) == 2 and min(sides) >= 16 and max(sides) <= 4096
    if not is_image or not 0 <= golden.body_part < len(BODY_PARTS) or logits.shape != (1, 2):
        raise ValueError(
            f"{file} is not a golden check: it must hold a gray image, uint8 [H, W] with 16 to 4096 pixels a side, "
            "the index of a body part, and logits [1, 2]"
        )
    return golden


def golden_difference(folder: str | os.PathLike[str], model: Any, processor: Any) -> float:
    """Returns the largest difference between new logits and those of the golden check; about 1e-5 is rounding.

    Raises:
        ValueError: If the golden check of the folder cannot be read.
    """
    golden = read_golden(os.path.join(folder, GOLDEN_FILE))
    return float((_predict(model, processor, golden.picture, golden.body_part) - golden.logits).abs().max())


def _predict(model: Any, processor: Any, picture: np.ndarray, body_part: int) -> torch.Tensor:
    """Logits `[1, 2]` of a gray image."""
    pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
    given = {"body_parts": torch.tensor([body_part])} if model.NEEDS_PART else {}
    with torch.no_grad():
        output = model.eval().classify_views(pixels.to(model.device), **given)  # also of models for studies
    return output.logits.float().cpu().contiguous()


def digest_weights(checkpoint: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of `model.safetensors`; for sharded weights, the SHA-256 of the digests of the shards."""
    files = sorted(Path(checkpoint).glob("model*.safetensors"))
    return _digest_file(files[0]).hexdigest() if len(files) == 1 else digest_files(files)


def digest_files(files: Sequence[Path]) -> str:
    """Returns the SHA-256 of the concatenated SHA-256 digests of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(_digest_file(file).digest())
    return digest.hexdigest()


def _digest_file(file: Path) -> Any:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256")
