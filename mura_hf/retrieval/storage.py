"""The files of an index: codes and what makes their search fast in safetensors, rows in parquet, and a record.

    index.json         what it is: `IndexRecord`
    codes.safetensors  `codes` [N, D] in float32 or float16, `squares` [N]; of large ones `sketch_...`
    rows.parquet       the columns of `SCHEMA`
    index-WORD.faiss   where a factory string was given

Each file carries the same random word, FAISS's in its name, so that files of two builds are never taken for one index.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import CheckpointError, DatasetError
from .building import SCHEMA
from .search import Sketch

FOLDER = "retrieval"
"""Of a checkpoint's folder: where its index lies."""
RECORD, CODES, ROWS = "index.json", "codes.safetensors", "rows.parquet"
_SKETCH = ("mean", "basis", "vectors")
_BUILD = "build"
METRICS = ("l2", "cosine")


@dataclass(frozen=True)
class IndexRecord:
    """What an index is.

    Attributes:
        build: Random word of its files.
        coder: `digest_encoder` of the model and processor that made the codes.
        metric: "l2" (Euclidean distance, as study D has it) or "cosine"; then the codes have length 1.
        data: What the rows are, as records describe data; None where that is not known.
        split: Which split they are; likewise.
        factory: FAISS's factory string; None for exact search.
        parameters: FAISS's parameters at search time.
    """

    build: str
    coder: str
    metric: str = "l2"
    data: dict[str, Any] | None = None
    split: str | None = None
    factory: str | None = None
    parameters: str = ""

    @property
    def faiss_name(self) -> str:
        """Name of FAISS's file."""
        return f"index-{self.build}.faiss"


@dataclass(frozen=True)
class StoredIndex:
    """The content of an index's files.

    Attributes:
        record: What it is.
        codes: float32 or float16 `[N, D]`, mapped into memory.
        squares: Their squared lengths, float32 `[N]`.
        sketch: Of the codes, where they are many.
        rows: The columns of `SCHEMA`.
    """

    record: IndexRecord
    codes: torch.Tensor
    squares: torch.Tensor
    sketch: Sketch | None
    rows: pa.Table


def write_index(folder: Path, stored: StoredIndex, write_faiss: Callable[[Path], None] | None = None) -> None:
    """Writes an index. Each file replaces its forerunner at once, the record last.

    Args:
        folder: Where; made where it is missing.
        stored: What.
        write_faiss: Writes FAISS's file to a path; None where the index has none.

    Raises:
        DatasetError: If something cannot be written.
    """
    try:
        _write_files(folder, stored, write_faiss)
    except (OSError, SafetensorError) as error:
        raise DatasetError(
            f"the index cannot be written to {folder} ({error}); make room there, or name another folder"
        ) from error


def _write_files(folder: Path, stored: StoredIndex, write_faiss: Callable[[Path], None] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"codes": stored.codes.contiguous(), "squares": stored.squares}
    if stored.sketch is not None:
        # Column by column, as it is searched.
        named = {"mean": stored.sketch.mean, "basis": stored.sketch.basis, "vectors": stored.sketch.vectors.T}
        tensors |= {f"sketch_{name}": values.contiguous() for name, values in named.items()}
    build = {_BUILD: stored.record.build}
    faiss = [] if write_faiss is None else [stored.record.faiss_name]
    fresh = {name: folder / f"{name}.unfinished" for name in (*faiss, CODES, ROWS, RECORD)}
    if write_faiss is not None:
        write_faiss(fresh[stored.record.faiss_name])
    save_file(tensors, fresh[CODES], metadata={"format": "pt", **build})
    pq.write_table(stored.rows.replace_schema_metadata(build), fresh[ROWS], compression="zstd")
    fresh[RECORD].write_text(json.dumps(asdict(stored.record), indent=2) + "\n")
    for name, file in fresh.items():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        os.replace(file, folder / name)
    for old in folder.glob("index-*.faiss"):
        if old.name not in faiss:
            old.unlink()


def read_record(folder: Path) -> IndexRecord:
    """The record of an index.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    file = folder / RECORD
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        unknown = set(values) - {field.name for field in fields(IndexRecord)}
        if unknown:
            raise ValueError(f"it has {', '.join(sorted(unknown))}, which this version does not know")
        record = IndexRecord(**values)
        if record.metric not in METRICS:
            raise ValueError(f"its metric is {record.metric!r}")
        if not re.fullmatch(r"[0-9a-f]{32}", record.build):
            raise ValueError("its random word is none")
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no index ({RECORD}); {_AGAIN}") from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); {_AGAIN}") from error
    return record


_AGAIN = "build one with scripts/build_index.py"


def read_index(folder: Path) -> StoredIndex:
    """Opens the files of an index; codes are mapped into memory, not read.

    Raises:
        CheckpointError: If a file is missing or damaged, or they belong to different builds.
    """
    record = read_record(folder)
    try:
        with safe_open(folder / CODES, framework="pt") as opened:
            builds = {(opened.metadata() or {}).get(_BUILD), record.build}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        rows = pq.read_table(folder / ROWS, memory_map=True)
        builds.add((rows.schema.metadata or {}).get(_BUILD.encode(), b"").decode())
        _check_shapes(tensors, rows)
    except (SafetensorError, pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the index in {folder} is damaged ({reason}); {_AGAIN}") from error
    if len(builds) > 1:
        raise CheckpointError(f"the files in {folder} belong to different indexes; {_AGAIN}")
    sketch = None
    if "sketch_vectors" in tensors:
        sketch = Sketch(tensors["sketch_mean"], tensors["sketch_basis"], tensors["sketch_vectors"].T)
    return StoredIndex(record, tensors["codes"], tensors["squares"], sketch, rows)


def _check_shapes(tensors: dict[str, torch.Tensor], rows: pa.Table) -> None:
    codes, squares = tensors["codes"], tensors["squares"]
    sketched = [name in tensors for name in ("sketch_" + name for name in _SKETCH)]
    if rows.schema.remove_metadata() != SCHEMA:
        raise ValueError("its rows have other columns")
    if (
        codes.ndim != 2
        or not len(codes)
        or not len(codes) == len(squares) == len(rows)
        or any(sketched) != all(sketched)
    ):
        raise ValueError(f"{len(rows)} rows and codes of shape {list(codes.shape)}")
    if any(sketched) and (
        tensors["sketch_vectors"].shape != (tensors["sketch_basis"].shape[1] + 1, len(codes))
        or tensors["sketch_basis"].shape[0] != codes.shape[1]
    ):
        raise ValueError("its sketch is of other codes")
