"""Checks before a push: a checkpoint's folder is complete and holds nothing that must not leave this machine."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from ..errors import CheckpointError, first_line
from ..evaluation.evaluation import golden_image
from ..inference.loading import TOLERANCE
from ..metrics import PLOTS
from ..models import BODY_PARTS, GOLDEN_FILE, golden_difference
from ..models.golden_mura import digest_weights
from ..retrieval import FOLDER, OOD_FILE, OODDetector
from ..retrieval import RECORD as INDEX_RECORD
from .commit import CARD
from .export import (
    HUB_RECORD,
    ONNX_FOLDER,
    TIMM_FOLDER,
    check_index,
    index_is_exported,
    load_model,
    model_code_names,
    onnx_files,
    timm_files,
)

RECORDS = ("config.json", "preprocessor_config.json", "training.json", "evaluation.json")
WEIGHTS = "model.safetensors"
NOT_PUSHED = (CARD, HUB_RECORD, ".gitattributes", *PLOTS, "mistakes.png")
"""Files that are not pushed as they are: the name of a picture does not prove what it shows, so plots are drawn again.
The mistakes of a checkpoint show films, and are on local cards only."""

_KNOWN_FOLDERS = (".cache", "__pycache__", FOLDER, ONNX_FOLDER, TIMM_FOLDER)
_MAX_NUMBERS = 128  # in a list of a record, curves excepted: more may be codes, or a picture
_MAX_GRAY_DIFFERENCE = 1.0  # mean gray levels between the phantoms that two machines draw
_GOLDEN_TENSORS = {"picture", "body_part", "logits"}
_MADE_BY = {
    "training.json": "training writes it",
    "evaluation.json": "run scripts/evaluate.py",
    GOLDEN_FILE: "run scripts/evaluate.py",
}
_MURA_ID = re.compile(r"patient\d{5}|XR_[A-Z]+[/\\]|study\d+_(?:positive|negative)", re.IGNORECASE)


def check_checkpoint(folder: str | Path) -> None:
    """Raises a `CheckpointError` that names the file if a checkpoint's folder may not be pushed to the Hub.

    It may not if a file is missing, does not belong to a checkpoint, names a study or a patient, holds weights of half
    precision, or shows a picture that is not a phantom, or if its index would be pushed but must not be shared.
    """
    folder = Path(folder)
    _check_names(folder)
    check_text(folder, RECORDS)
    for name in RECORDS:
        _check_values(folder / name)
    for file in sorted(folder.glob("*.safetensors")):
        check_tensors(file)
    check_golden_picture(folder)
    detector = folder / OOD_FILE
    if detector.is_file():  # loading fails on anything but means and a covariance of groups of views
        OODDetector.load(detector, digest_weights(folder))
    for exported in (onnx_files(folder), timm_files(folder)):
        others = sorted({*exported[0].parent.iterdir()} - {*exported}) if exported else []
        if others:
            raise CheckpointError(f"{others[0]} does not belong to an export; move it elsewhere")
        for file in exported:
            if file.suffix == ".json":
                _check_values(file)
            elif file.suffix == ".md":
                check_text(file.parent, [file.name])
            elif file.suffix == ".safetensors":
                check_tensors(file)
    if index_is_exported(folder):
        check_index(folder)
        check_text(folder / FOLDER, [INDEX_RECORD])
        _check_values(folder / FOLDER / INDEX_RECORD)


def _check_names(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; pass the folder of a checkpoint")
    missing = [name for name in (WEIGHTS, *RECORDS, GOLDEN_FILE) if not (folder / name).is_file()]
    if missing:
        listed = "; ".join(f"{name}: {_MADE_BY[name]}" if name in _MADE_BY else name for name in missing)
        raise CheckpointError(f"{folder} is incomplete and is not pushed. Missing: {listed}")
    known = {WEIGHTS, *RECORDS, GOLDEN_FILE, OOD_FILE, *NOT_PUSHED, *model_code_names()}
    for path in sorted(folder.iterdir()):
        if path.name not in (_KNOWN_FOLDERS if path.is_dir() else known):
            raise CheckpointError(
                f"{path} does not belong to a checkpoint and is not pushed; move it elsewhere. Pictures, arrays, "
                "codes, split manifests and optimizer states stay on this machine"
            )


def check_text(folder: Path, names: Iterable[str]) -> None:
    """Raises a `CheckpointError` with file and line if a text file names a study or patient in MURA's way."""
    for name in names:
        try:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{folder / name} is not UTF-8 text; remove it, or write it again") from error
        for number, line in enumerate(lines, 1):
            if found := _MURA_ID.search(line):
                raise CheckpointError(
                    f"{folder / name}, line {number}, names a patient or a study ({found.group()}), which must stay "
                    "on this machine; remove it, or write the file again without it"
                )


def _check_values(file: Path) -> None:
    """Checks the decoded values of a record: escaped text may hide an id, and a long list may hold codes."""
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
            if (count := _count_numbers(value)) > _MAX_NUMBERS:
                raise CheckpointError(
                    f"{file} holds a list of {count} numbers, which may be codes or a picture; they must stay on this "
                    "machine. Remove the list"
                )
            waiting += value
        elif isinstance(value, str) and (found := _MURA_ID.search(value)):
            raise CheckpointError(
                f"{file} names a patient or a study ({found.group()}), which must stay on this machine; remove it"
            )


def _count_numbers(value: Any) -> int:
    return sum(map(_count_numbers, value)) if isinstance(value, list) else isinstance(value, int | float)


def check_tensors(file: Path) -> None:
    """Raises a `CheckpointError` if a safetensors file is damaged or names a patient, or weights are not float32."""
    try:
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
            kinds = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a complete safetensors file ({error}); train or copy it again"
        ) from error
    for text in (*kinds, *metadata.keys(), *metadata.values()):
        if found := _MURA_ID.search(text):
            raise CheckpointError(
                f"{file} names a patient or a study ({found.group()}) in its header, which must stay on this machine"
            )
    for name, kind in kinds.items():
        if file.name == WEIGHTS and kind.startswith(("F", "BF")) and kind != "F32":
            raise CheckpointError(
                f"{file} holds {name} as {kind}; checkpoints are pushed in single precision, so that everybody gets "
                "the same predictions. Save it again: load it with dtype=torch.float32, then "
                'model.save_pretrained("a new folder")'
            )


def check_golden(folder: str | Path) -> float:
    """Computes the golden logits again and returns their largest difference, or raises if rounding is exceeded."""
    folder = Path(folder)
    try:
        difference = golden_difference(folder, *load_model(folder))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged checkpoint may fail in any way
        raise CheckpointError(f"{folder} cannot be loaded: {first_line(error)}") from error
    if not difference <= TOLERANCE:  # also catches NaN
        raise CheckpointError(
            f"the golden logits of {folder} differ by {difference:.2g} from those that its weights and image "
            f"processor give here; rounding explains {TOLERANCE:g} at most. If weights or calibration changed on "
            "purpose, run scripts/evaluate.py again, which writes them"
        )
    return difference


def check_golden_picture(folder: str | Path) -> None:
    """Raises a `CheckpointError` unless the golden check shows the expected phantom and holds nothing else."""
    file = Path(folder) / GOLDEN_FILE
    rerun = "run scripts/evaluate.py, which writes it again"
    try:
        tensors = load_file(file)
    except Exception as error:  # a damaged file may fail in any way
        raise CheckpointError(f"{file} cannot be read ({error}); {rerun}") from error
    if set(tensors) != _GOLDEN_TENSORS:
        found, expected = (", ".join(sorted(names)) or "nothing" for names in (tensors, _GOLDEN_TENSORS))
        raise CheckpointError(f"{file} holds {found}, not {expected}; {rerun}")
    part = int(tensors["body_part"].ravel()[0]) if tensors["body_part"].size == 1 else -1
    if not 0 <= part < len(BODY_PARTS):
        raise CheckpointError(f"{file} names no body part; {rerun}")
    picture, phantom = tensors["picture"], golden_image(BODY_PARTS[part])
    if (
        picture.dtype != np.uint8
        or picture.shape != phantom.shape
        or np.abs(picture.astype(np.float32) - phantom).mean() >= _MAX_GRAY_DIFFERENCE
    ):
        raise CheckpointError(
            f"the picture in {file} is not the expected phantom; it may be a patient's radiograph, which must stay on "
            f"this machine. To continue, {rerun}"
        )
