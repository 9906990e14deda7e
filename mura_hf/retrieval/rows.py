"""What an index knows of each of its views, beside the code."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ..models import BODY_PARTS, LABELS

if TYPE_CHECKING:
    from datasets import Dataset

SCHEMA = pa.schema(
    [
        ("study_id", pa.string()),
        ("patient_id", pa.string()),
        ("view", pa.int32()),
        ("label", pa.string()),
        ("body_part", pa.string()),
        ("finding", pa.string()),
        ("thumbnail", pa.binary()),
    ]
)
"""Columns of an index: the dataset's own words; `thumbnail` is a WebP picture. What is not known is null."""

_QUALITY = 60  # of thumbnails


@dataclass(frozen=True)
class Neighbour:
    """A study of an index that looks like another.

    Attributes:
        study_id: Its name in the dataset.
        patient_id: Its patient's.
        view: Number of its view that comes nearest.
        label: "normal" or "abnormal", as the dataset has it.
        body_part: One of the seven, or None.
        finding: Kind of finding where the dataset tells; None where there is none, or it is not known.
        distance: Euclidean, or 1 - cosine, of that view's code from the nearest one of what was searched for.
        nearest_to: Place of that one among the views that were searched for.
        row: Of the view in the index.
        thumbnail: A small WebP picture of the view, where the index has one.
    """

    study_id: str
    patient_id: str
    view: int
    label: str
    body_part: str | None
    finding: str | None
    distance: float
    nearest_to: int
    row: int
    thumbnail: bytes | None = None


def describe_rows(rows: "Dataset") -> pa.Table:
    """The columns of `SCHEMA` but thumbnails, of rows that one of the package's loaders gave."""
    findings = rows["finding"] if "finding" in rows.column_names else [None] * len(rows)
    columns: dict[str, Sequence[Any]] = {
        "study_id": rows["study_id"],
        "patient_id": rows["patient_id"],
        "view": rows["view"],
        "label": [LABELS[label] for label in rows["label"]],
        "body_part": [None if part is None else BODY_PARTS[part] for part in rows["body_part"]],
        "finding": [finding or None for finding in findings],
        "thumbnail": [None] * len(rows),
    }
    return pa.Table.from_pydict({name: list(values) for name, values in columns.items()}, schema=SCHEMA)


def make_thumbnail(plane: np.ndarray, side: int) -> bytes:
    """A small WebP picture of a gray plane uint8 `[H, W]`, its longer side `side` pixels at most."""
    picture = Image.fromarray(plane)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=_QUALITY, method=6)
    return stream.getvalue()
