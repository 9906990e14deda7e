"""The golden check of a checkpoint that goes to the Hub: its picture is a phantom, which anyone may draw again.

What leaves this machine with a checkpoint, and what is refused: of MURA's pictures, all but what weights keep.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from ..errors import CheckpointError
from ..evaluation.prediction_cache import golden_picture
from ..inference.loading import TOLERANCE
from ..metrics import PLOTS
from ..models import BODY_PARTS, CLASSIFIERS, GOLDEN_FILE, MuraImageProcessor, golden_difference
from ..models.golden_mura import digest_weights
from ..retrieval import FOLDER, OOD_FILE, OODDetector
from ..retrieval import RECORD as INDEX_RECORD
from .export import HUB_RECORD, check_index, index_travels, model_code_names

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


RECORDS = ("config.json", "preprocessor_config.json", "training.json", "evaluation.json")
WEIGHTS = "model.safetensors"
CARD = "README.md"
LEFT_BEHIND = (CARD, HUB_RECORD, ".gitattributes", *PLOTS)
"""What a checkpoint's folder may hold, but does not give away: card and plots are made anew from the records, since a
name says nothing about a picture.
"""

_KNOWN_FOLDERS = (".cache", "__pycache__", FOLDER)
"""The last one goes, or stays behind: see `traveling_index`."""
_MOST_NUMBERS = 128
"""Numbers that a list of a record may hold, but for curves: more may be codes, or a picture."""

_MADE_BY = {
    "training.json": "training writes it",
    "evaluation.json": "run scripts/evaluate.py",
    GOLDEN_FILE: "run scripts/evaluate.py",
}
_TRACES = re.compile(r"patient\d{5}|XR_[A-Z]+[/\\]|study\d+_(?:positive|negative)", re.IGNORECASE)


def check_checkpoint(folder: str | Path) -> None:
    """Makes sure that a checkpoint's folder may go to the Hub.

    Args:
        folder: The checkpoint.

    Raises:
        CheckpointError: If a file is missing, is none of a checkpoint's, names a study or a patient, holds weights of
            half precision, or shows a picture that is no phantom; or if an index that would go too holds what it may
            not. The message names it.
    """
    folder = Path(folder)
    _check_names(folder)
    check_text(folder, RECORDS)
    for name in RECORDS:
        _check_values(folder / name)
    for file in sorted(folder.glob("*.safetensors")):
        check_tensors(file)
    check_golden_picture(folder)
    learned = folder / OOD_FILE
    if learned.is_file():  # means and a covariance, of groups of views: it says so of nothing else that it might hold
        OODDetector.load(learned, digest_weights(folder))
    if index_travels(folder):
        check_index(folder)
        check_text(folder / FOLDER, [INDEX_RECORD])
        _check_values(folder / FOLDER / INDEX_RECORD)


def check_text(folder: Path, names: Iterable[str]) -> None:
    """Refuses text that names a study or a patient in MURA's way.

    Args:
        folder: Where the files lie.
        names: Of them.

    Raises:
        CheckpointError: If one does; the message names file, line and what was found.
    """
    for name in names:
        try:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{folder / name} is no text in UTF-8; remove it, or write it again") from error
        for number, line in enumerate(lines, 1):
            found = _TRACES.search(line)
            if found:
                raise CheckpointError(
                    f"{folder / name}, line {number}, names a patient or a study ({found.group()}); that stays on "
                    "this machine. Remove it, or write the file again without"
                )


def _check_values(file: Path) -> None:
    """Refuses what a record says in other letters than it is written in, and lists that are too long for a record."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); make it again") from error
    if file.name == "evaluation.json" and isinstance(values, dict):
        values = {name: value for name, value in values.items() if name != "curves"}
    waiting: list[Any] = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            if _count(value) > _MOST_NUMBERS:
                raise CheckpointError(
                    f"{file} holds a list of {_count(value)} numbers, as codes or a picture would be; such stay on "
                    "this machine. Remove it"
                )
            waiting += value
        elif isinstance(value, str) and (found := _TRACES.search(value)):
            raise CheckpointError(
                f"{file} names a patient or a study ({found.group()}); that stays on this machine. Remove it"
            )


def _count(value: Any) -> int:
    """How many numbers a list holds, those of lists in it included."""
    if isinstance(value, list):
        return sum(map(_count, value))
    return int(isinstance(value, int | float))


def _check_names(folder: Path) -> None:
    """The files that must be there, and none that is unknown."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder; give that of a checkpoint")
    missing = [name for name in (WEIGHTS, *RECORDS, GOLDEN_FILE) if not (folder / name).is_file()]
    if missing:
        told = "; ".join(f"{name}: {_MADE_BY[name]}" if name in _MADE_BY else name for name in missing)
        raise CheckpointError(f"{folder} is no whole checkpoint, and is not pushed. Missing: {told}")
    known = {WEIGHTS, *RECORDS, GOLDEN_FILE, OOD_FILE, *LEFT_BEHIND, *model_code_names()}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in _KNOWN_FOLDERS:
                raise _refused(path, "is no folder of a checkpoint")
        elif path.name not in known:
            raise _refused(path, "is no file of a checkpoint")


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {why} and does not go to the Hub; move it elsewhere. Pictures, arrays, codes, split manifests and "
        "states of optimizers stay on this machine"
    )


def check_tensors(file: Path) -> None:
    """Makes sure that weights are in single precision, and that a file's names tell of no study.

    Raises:
        CheckpointError: If they are not, they do, or it is no safetensors file.
    """
    try:
        with safe_open(file, framework="np") as opened:
            told = opened.metadata() or {}
            words = [*opened.keys(), *told.keys(), *told.values()]
            kinds = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is no whole safetensors file ({error}); train or copy it again") from error
    found = next((match for match in map(_TRACES.search, words) if match), None)
    if found:
        raise CheckpointError(
            f"{file} names a patient or a study ({found.group()}) in its header; that stays on this machine"
        )
    if file.name != WEIGHTS:
        return
    for name, kind in kinds.items():
        if kind.startswith(("F", "BF")) and kind != "F32":
            raise CheckpointError(
                f"{file} holds {name} as {kind}; checkpoints are pushed in single precision, so that all get the same "
                'answers. Save it again: load it with dtype=torch.float32, model.save_pretrained("a new folder")'
            )
