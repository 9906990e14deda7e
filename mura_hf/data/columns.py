"""Columns of the datasets that the package loads."""

from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from ..models.configuration_mura import BODY_PARTS, LABELS

FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=list(LABELS)),
        "body_part": ClassLabel(names=list(BODY_PARTS)),
        "patient_id": Value("string"),
        "study_id": Value("string"),
        "view": Value("int32"),
    }
)
"""Columns of every dataset that the package loads. `body_part` is None where it is none of the seven, or not known."""

BOXES = List(List(Value("int32"), length=4))
"""Where findings show: x0, y0, x1, y1 in pixels of the file, half open."""

SPLITS = ("train", "dev", "calib", "valid")

Row = dict[str, Any]


def make_splits(rows: dict[str, list[Row]], features: Features) -> DatasetDict:
    """Rows by split as a `DatasetDict`, each split in its own order; splits without rows are there, and empty."""
    return DatasetDict({name: make_dataset(rows.get(name, []), features) for name in SPLITS})


def make_dataset(rows: Sequence[Row], features: Features) -> Dataset:
    """Rows as a `Dataset` with the columns of `features`."""
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)
