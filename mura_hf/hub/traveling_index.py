"""Which indexes of studies may leave this machine, and what must be true of their files.

A code says much about its picture, so an index goes where its pictures might go: phantoms may, and films whose licence
lets everyone pass them on, by the names that they bear there. Thumbnails are of phantoms only. The index of any other
data stays on this machine, whatever else of the checkpoint is pushed.
"""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import CheckpointError
from ..models import CLASSIFIERS, MuraImageProcessor
from ..retrieval import CODES, FOLDER, RECORD, ROWS, RetrievalIndex, read_record

PHANTOMS = "phantoms"
OPEN_DATA = (PHANTOMS, "fracatlas", "grazpedwri")
"""Data whose index may travel: made here, or under CC BY 4.0."""

_TENSORS = {"codes", "squares", "sketch_mean", "sketch_basis", "sketch_vectors"}
_OF_MURA = re.compile(r"patient\d{5}|XR_[A-Z]+[/\\]", re.IGNORECASE)
_MOST_BYTES = 20_000
"""Of a thumbnail: a small picture is much smaller, a film is not."""


def index_travels(folder: str | Path) -> bool:
    """Whether a checkpoint has an index of data that may be passed on.

    Args:
        folder: The checkpoint.

    Raises:
        CheckpointError: If there is an index whose record cannot be read.
    """
    place = Path(folder) / FOLDER
    return place.is_dir() and (read_record(place).data or {}).get("key") in OPEN_DATA


def index_files(folder: str | Path) -> list[Path]:
    """The files of a checkpoint's index that travel; none where it does not.

    Raises:
        CheckpointError: As `index_travels`.
    """
    place = Path(folder) / FOLDER
    if not index_travels(folder) or read_record(place).factory is not None:  # without FAISS's file it would not work
        return []
    return [place / name for name in (RECORD, CODES, ROWS)]


def check_index(folder: str | Path) -> None:
    """Makes sure that a checkpoint's index holds what may travel, and belongs to the checkpoint.

    Args:
        folder: The checkpoint, whose index travels.

    Raises:
        CheckpointError: If the index is damaged, of other weights or needs FAISS; if there is another file beside it,
            a tensor that is none of an index's, a picture that is no small one of a phantom, or a name as MURA's. The
            message names it.
    """
    folder = Path(folder)
    place = folder / FOLDER
    others = sorted({path.name for path in place.iterdir()} - {RECORD, CODES, ROWS})
    record = read_record(place)
    if record.factory is not None:
        raise CheckpointError(
            f"{place} searches by FAISS, whose files are not read from strangers; build the index without a factory "
            "string, or move it elsewhere"
        )
    if others:
        raise CheckpointError(f"{place / others[0]} is no file of an index; move it elsewhere")
    index = RetrievalIndex.load(place, *_load(folder))
    with safe_open(place / CODES, framework="np") as opened:
        strange = sorted(set(opened.keys()) - _TENSORS)
        told = set(opened.metadata() or {}) - {"format", "build"}
    if strange or told:
        raise CheckpointError(f"{place / CODES} holds {', '.join([*strange, *sorted(told)])}; {_AGAIN}")
    metadata = set(index.rows.schema.metadata or {}) - {b"build"}
    if metadata:
        raise CheckpointError(f"{place / ROWS} holds more than rows ({len(metadata)} notes); {_AGAIN}")
    _check_rows(index, place / ROWS, phantoms=(record.data or {}).get("key") == PHANTOMS)


_AGAIN = "build the index again with scripts/build_index.py"


def _check_rows(index: RetrievalIndex, file: Path, *, phantoms: bool) -> None:
    for row in index.rows.to_pylist():
        picture = row.pop("thumbnail")
        if picture is not None and not phantoms:
            raise CheckpointError(
                f"{file} holds small pictures of films; only those of phantoms leave this machine. Build the index "
                "without --thumbnails"
            )
        if picture is not None and len(picture) > _MOST_BYTES:
            raise CheckpointError(
                f"{file} holds a picture of {len(picture)} bytes, too large for a thumbnail; {_AGAIN}"
            )
        found = None if phantoms else _OF_MURA.search(" ".join(map(str, row.values())))
        if found:
            raise CheckpointError(
                f"{file} names a patient or a study ({found.group()}); that stays on this machine. {_AGAIN}"
            )


def _load(folder: Path) -> tuple[Any, MuraImageProcessor]:
    """By this package's own classes; code beside the checkpoint is not run."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return CLASSIFIERS[kind].from_pretrained(folder).eval(), MuraImageProcessor.from_pretrained(folder)
