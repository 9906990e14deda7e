"""Files of an index. All of them need pyarrow (extra `train`).

    index.json         `IndexRecord`
    codes.safetensors  `codes` [N, D] in float32 or float16 and `squares` [N]
    rows.parquet       one row per view, see `row_schema`
    index-BUILD.faiss  only with a FAISS factory string

All files carry the same random build id (FAISS's file in its name), so that files of two builds are never mixed.
Indexes of the first edition may hold further tensors (`sketch_...`), which are ignored.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..common import require_extra
from ..errors import CheckpointError, DatasetError, first_line
from ..models import BODY_PARTS, LABELS

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

FOLDER = "retrieval"
"""Subfolder of a checkpoint that holds its index."""
RECORD, CODES, ROWS = "index.json", "codes.safetensors", "rows.parquet"
INDEX_FILES = tuple(f"{FOLDER}/{name}" for name in (RECORD, CODES, ROWS))
"""Files of an index in the folder of its checkpoint, except FAISS's."""
METRICS = ("l2", "cosine")
SHARED_DATA = ("phantoms", "fracatlas", "grazpedwri")
"""Keys of data whose index and thumbnails may be shared: made by this package, or licensed under CC BY 4.0."""
_BUILD = "build"
_REBUILD = "build one with scripts/build_index.py"


@dataclass(frozen=True)
class IndexRecord:
    """Description of an index."""

    build: str  # random id of the build, shared by its files
    coder: str  # `digest_encoder` of the model and processor that made the codes
    metric: str = "l2"  # "l2" (Euclidean distance) or "cosine". Cosine indexes hold codes of length 1.
    data: dict[str, Any] | None = None  # description of the dataset as in `training.json`; None if unknown
    split: str | None = None  # name of the split; None if unknown
    factory: str | None = None  # FAISS factory string; None for exact search
    parameters: str = ""  # FAISS search parameters

    @property
    def may_be_shared(self) -> bool:
        """Whether the pictures that the codes describe may be shared."""
        return (self.data or {}).get("key") in SHARED_DATA

    @property
    def picture_credit(self) -> str | None:
        """Whom to credit beside thumbnails of films: dataset, publication and license. None if no credit is due."""
        data = self.data or {}
        if not self.may_be_shared or data["key"] == "phantoms":
            return None
        source = data.get("citation") or data.get("name") or data["key"]
        return f"{source.rstrip('.')}. CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), reduced in size."

    @property
    def faiss_name(self) -> str:
        """Name of FAISS's file."""
        return f"index-{self.build}.faiss"


@dataclass(frozen=True)
class StoredIndex:
    """Content of the files of an index."""

    record: IndexRecord  # its description
    codes: torch.Tensor  # float32 or float16 `[N, D]`, memory-mapped after loading
    squares: torch.Tensor  # squared lengths of the codes, float32 `[N]`
    rows: "pa.Table"  # table with the columns of `row_schema`


def row_schema() -> "pa.Schema":
    """Columns of an index: those of the dataset, and `thumbnail`, a WebP file. Unknown values are null."""
    require_extra("train", "pyarrow")  # the extra demo has it too
    import pyarrow as pa

    names = ("study_id", "patient_id", "view", "label", "body_part", "finding", "thumbnail")
    types = {"view": pa.int32(), "thumbnail": pa.binary()}
    return pa.schema([(name, types.get(name, pa.string())) for name in names])


def make_rows(dataset: "Dataset", thumbnails: Sequence[bytes] | None = None) -> "pa.Table":
    """Makes the table of an index from a dataset split of one of the package's loaders."""
    schema = row_schema()
    import pyarrow as pa

    findings = dataset["finding"] if "finding" in dataset.column_names else [None] * len(dataset)
    columns: dict[str, Sequence[Any]] = {
        **{name: list(dataset[name]) for name in ("study_id", "patient_id", "view")},
        "label": [LABELS[label] for label in dataset["label"]],
        "body_part": [None if part is None else BODY_PARTS[part] for part in dataset["body_part"]],
        "finding": [finding or None for finding in findings],
        "thumbnail": [None] * len(dataset) if thumbnails is None else thumbnails,
    }
    return pa.Table.from_pydict(columns, schema=schema)


def write_index(folder: Path, stored: StoredIndex, write_faiss: Callable[[Path], None] | None = None) -> None:
    """Writes the files of an index. Each one replaces its predecessor atomically, the record last.

    `write_faiss` writes FAISS's file to a path, if the index has one.

    Raises:
        DatasetError: If a file cannot be written.
    """
    import pyarrow.parquet as pq

    build = {_BUILD: stored.record.build}
    faiss = stored.record.faiss_name
    names = (CODES, ROWS, RECORD) if write_faiss is None else (faiss, CODES, ROWS, RECORD)
    fresh = {name: folder / f"{name}.unfinished" for name in names}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if write_faiss is not None:
            write_faiss(fresh[faiss])
        tensors = {"codes": stored.codes.contiguous(), "squares": stored.squares}
        save_file(tensors, fresh[CODES], metadata={"format": "pt", **build})
        pq.write_table(stored.rows.replace_schema_metadata(build), fresh[ROWS], compression="zstd")
        fresh[RECORD].write_text(json.dumps(asdict(stored.record), indent=2) + "\n")
        for name, file in fresh.items():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            os.replace(file, folder / name)
        for old in folder.glob("index-*.faiss"):
            if old.name not in names:
                old.unlink()
    except (OSError, SafetensorError) as error:
        raise DatasetError(
            f"the index cannot be written to {folder} ({error}); free some space there, or choose another folder"
        ) from error


def read_record(folder: Path) -> IndexRecord:
    """Reads the record of an index; raises `CheckpointError` if it is missing or invalid."""
    file = folder / RECORD
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        unknown = set(values) - {field.name for field in fields(IndexRecord)}
        if unknown:
            raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
        record = IndexRecord(**values)
        if record.metric not in METRICS:
            raise ValueError(f"unknown metric {record.metric!r}")
        if not re.fullmatch(r"[0-9a-f]{32}", record.build):
            raise ValueError("invalid build id")
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no index ({RECORD} is missing); {_REBUILD}") from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); {_REBUILD}") from error
    return record


def read_index(folder: Path) -> StoredIndex:
    """Opens an index; raises `CheckpointError` if a file is missing, damaged or of another build."""
    schema = row_schema()
    import pyarrow as pa
    import pyarrow.parquet as pq

    record = read_record(folder)
    try:
        with safe_open(folder / CODES, framework="pt") as opened:
            builds = {(opened.metadata() or {}).get(_BUILD), record.build}
            codes, squares = opened.get_tensor("codes"), opened.get_tensor("squares")
        rows = pq.read_table(folder / ROWS, memory_map=True)
        builds.add((rows.schema.metadata or {}).get(_BUILD.encode(), b"").decode())
        if rows.schema.remove_metadata() != schema:
            raise ValueError(f"{ROWS} has other columns")
        if codes.ndim != 2 or not len(codes) or not len(codes) == len(squares) == len(rows):
            raise ValueError(f"{len(rows)} rows and codes of shape {list(codes.shape)}")
    except (SafetensorError, pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"the index in {folder} is damaged ({first_line(error)}); {_REBUILD}") from error
    if len(builds) > 1:
        raise CheckpointError(f"the files in {folder} belong to different indexes; {_REBUILD}")
    return StoredIndex(record, codes, squares, rows)
