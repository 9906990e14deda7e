"""What is known about each picture of a tree of phantoms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value

from ..errors import DatasetError
from .columns import BOXES, Row
from .mura_files import from_split

TRUTH = Features({"boxes": BOXES, "decoys": BOXES, "finding": Value("string"), "twin": Value("string")})
"""Further columns of phantoms. `boxes`: where findings show; `decoys`: where they would show in a picture that has
none; `finding`: what kind, None where there is none; `twin`: the same for pictures that differ in the finding alone.
"""

_FILE = "findings.parquet"
_CORNERS = ("x0", "y0", "x1", "y1")


def has_truth(tree: Path) -> bool:
    """Whether a tree (the folder with train and valid) is one of phantoms."""
    return (tree / _FILE).is_file()


def add_truth(tree: Path, rows: Sequence[Row]) -> None:
    """Adds the columns of `TRUTH` to the rows of a tree of phantoms.

    Args:
        tree: The folder with train and valid.
        rows: Of both splits; changed in place.

    Raises:
        DatasetError: If `findings.parquet` is damaged, or is about another tree.
    """
    truth = _read_findings(tree / _FILE)
    for row in rows:
        if row["name"] not in truth:  # a picture that was put among phantoms is none for being there
            raise DatasetError(
                f"{tree}: findings.parquet does not name {row['name']}, so it is not known to be a phantom; move it "
                "elsewhere, or make the phantoms again"
            )
        row |= truth[row["name"]]


def _read_findings(file: Path) -> dict[str, Row]:
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{file} is damaged ({reason}); make the phantoms again") from error
    decoys = [f"decoy_{name}" for name in _CORNERS]
    absent = {"path", "seed", "finding", *_CORNERS, *decoys} - set(table.column_names)
    if absent:
        raise DatasetError(f"{file} lacks the columns {', '.join(sorted(absent))}; make the phantoms again")
    return {
        from_split(row["path"]): {
            "boxes": _boxes(row, _CORNERS),
            "decoys": _boxes(row, decoys),
            "finding": row["finding"],
            "twin": f"{row['seed']}/{row['path'].rsplit('/', 1)[-1]}",
        }
        for row in table.to_pylist()
    }


def _boxes(row: dict[str, Any], corners: Sequence[str]) -> list[list[int]]:
    return [] if row[corners[0]] is None else [[row[name] for name in corners]]
