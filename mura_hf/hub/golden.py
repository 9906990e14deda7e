"""The golden check of a checkpoint that goes to the Hub: its picture is a phantom, which anyone may draw again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ..assessment.golden import golden_picture
from ..errors import CheckpointError
from ..inference.golden import TOLERANCE
from ..models import BODY_PARTS, CLASSIFIERS, GOLDEN_FILE, MuraImageProcessor, golden_difference

_TENSORS = {"picture", "body_part", "logits"}
_MOST_GRAY = 1.0  # gray levels that two machines may draw a phantom apart, on the average


def check_golden(folder: str | Path) -> float:
    """Computes the golden logits again.

    Args:
        folder: The checkpoint.

    Returns:
        By how much they differ at most.

    Raises:
        CheckpointError: If it cannot be loaded, or they differ by more than rounding does.
    """
    difference = golden_difference(folder, *_load(Path(folder)))
    if not difference <= TOLERANCE:  # also catches NaN
        raise CheckpointError(
            f"the golden logits of {folder} differ by {difference:.2g} from those that its weights and processor give "
            f"here, more than the {TOLERANCE:g} that rounding may do. If weights or calibration changed on purpose, "
            "run scripts/evaluate.py again, which writes them"
        )
    return difference


def check_golden_picture(folder: str | Path) -> None:
    """Makes sure that the golden picture is the phantom that it should be, and no patient.

    Args:
        folder: The checkpoint.

    Raises:
        CheckpointError: If it is another picture, or the file holds anything else.
    """
    file = Path(folder) / GOLDEN_FILE
    again = "run scripts/evaluate.py, which writes it again"
    try:
        tensors = load_file(file)
    except Exception as error:  # whatever a broken file makes of the reader
        raise CheckpointError(f"{file} cannot be read ({error}); {again}") from error
    if set(tensors) != _TENSORS:
        raise CheckpointError(
            f"{file} holds {', '.join(sorted(tensors)) or 'nothing'}, not {', '.join(sorted(_TENSORS))}; {again}"
        )
    part = int(tensors["body_part"].ravel()[0]) if tensors["body_part"].size == 1 else -1
    if not 0 <= part < len(BODY_PARTS):
        raise CheckpointError(f"{file} names no body part; {again}")
    picture, expected = tensors["picture"], golden_picture(BODY_PARTS[part])
    if picture.dtype != np.uint8 or picture.shape != expected.shape or _apart(picture, expected) >= _MOST_GRAY:
        raise CheckpointError(
            f"the picture in {file} is not the phantom that it should be; it may be a patient's, and does not leave "
            f"this machine. To go on, {again}"
        )


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float32) - other.astype(np.float32)).mean())


def _load(folder: Path) -> tuple[Any, MuraImageProcessor]:
    """By this package's own classes; code beside the checkpoint is not run."""
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
        return CLASSIFIERS[kind].from_pretrained(folder), MuraImageProcessor.from_pretrained(folder)
    except CheckpointError:
        raise
    except Exception as error:  # a checkpoint may be wrong in any way
        reason = (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
        raise CheckpointError(f"{folder} cannot be loaded: {reason}") from error
