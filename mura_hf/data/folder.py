"""`load_folder` loads your own radiographs, described by a metadata.csv, as a `DatasetDict`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..common import BODY_PARTS
from ..errors import DatasetError
from ..models.configuration_mura import LABELS
from .splits import (
    FEATURES,
    Row,
    SplitOptions,
    assign_patients,
    check_body_parts,
    check_studies,
    make_splits,
    number_views,
    read_table,
    report,
)

TABLE = "metadata.csv"
_REQUIRED = ("file_name", "label")
_COLUMNS = (*_REQUIRED, "study_id", "patient_id", "body_part")
_LABELS = {"0": 0, "1": 1, LABELS[0]: 0, LABELS[1]: 1}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")


def load_folder(
    root: str | os.PathLike[str], body_parts: Sequence[str] | None = None, **split_options: Any
) -> DatasetDict:
    """Loads a folder of radiographs with a `metadata.csv`: PNG, JPEG or DICOM, 8 or 16 bit. Decodes no file.

    The table has a header with `file_name` (relative to the folder) and `label` (normal, abnormal, 0 or 1), and
    optionally `study_id`, `patient_id` and `body_part` (one of the seven, or empty). Without `study_id` every file is
    a study of its own. Without `patient_id` every study counts as a patient of its own: the same patient may then be
    in train and in valid, and every figure comes out too good. A message on stderr says so.

    Args:
        root: The folder.
        body_parts: Body parts to load. Defaults to every row, including those without a body part.
        **split_options: See `SplitOptions`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `FEATURES`. If any file is neither PNG nor JPEG,
        the column `image` contains paths instead of images; `read_radiograph` reads them.

    Raises:
        DatasetError: If the table or a file is missing, a value is invalid, or rows contradict each other. The message
            names line and file.
        ValueError: If a body part is unknown or an option is invalid.
    """
    wanted = None if body_parts is None else check_body_parts(body_parts)
    options, root = SplitOptions(**split_options), Path(root)
    table = root / TABLE
    records = read_table(table, _REQUIRED, f"radiographs with {TABLE}")
    rows: dict[str, Row] = {}
    for number, record in enumerate(records, 2):
        row = _make_row(record, root, f"{table}, line {number}")
        if row["image"] in rows:
            raise DatasetError(f"{table} lists {row['image']} twice; remove one line")
        rows[row["image"]] = row
    check_studies(list(rows.values()), table)
    _report(table, records[0], rows)
    ordered = sorted(rows.values(), key=lambda row: (row["study_id"], row["image"]))
    number_views(ordered)
    chosen = [row for row in ordered if wanted is None or row["body_part"] in wanted]
    if not chosen:
        raise DatasetError(f"{table} names no study of {', '.join(wanted or ())}; choose other body parts")
    return make_splits(chosen, assign_patients(chosen, options, root), FEATURES)


def _make_row(record: dict[str, str], root: Path, where: str) -> Row:
    name, label = record["file_name"].strip(), record["label"].strip().lower()
    file = (root / name).resolve()
    if not name or not file.is_relative_to(root.resolve()):
        raise DatasetError(f"{where}: file_name is {name!r}, but must be a path inside the folder")
    if not file.is_file():
        raise DatasetError(f"{where}: {name} does not exist; copy the file, or remove its line")
    if label not in _LABELS:
        raise DatasetError(f"{where}: label is {record['label']!r}, but must be normal, abnormal, 0 or 1")
    part = (record.get("body_part") or "").strip().lower()
    if part and part not in BODY_PARTS:
        raise DatasetError(f"{where}: body_part is {part!r}, but must be one of {', '.join(BODY_PARTS)}, or empty")
    ids = {column: record.get(column) for column in ("study_id", "patient_id")}
    for column, value in ids.items():
        if value is not None and not value.strip():
            raise DatasetError(f"{where}: {column} is empty; fill it in, or remove the whole column")
    study, patient = ((value or "").strip() for value in ids.values())
    study = study or name
    return {
        "image": str(file),
        "label": _LABELS[label],
        "body_part": part or None,
        "patient_id": patient or study,
        "study_id": f"{patient}/{study}" if patient else study,
    }


def _report(table: Path, columns: dict[str, str], rows: dict[str, Row]) -> None:
    messages = []
    unknown = sorted(set(columns) - set(_COLUMNS))
    if unknown:
        messages.append(f"{table}: unknown columns are ignored: {', '.join(unknown)}.")
    if "patient_id" not in columns:
        messages.append(
            f"{table} has no patient_id, so every study counts as a patient of its own. If a patient has several "
            "studies, some may be in train and others in valid, and every figure comes out too good."
        )
    unlisted = sorted(
        str(file.relative_to(table.parent))
        for file in table.parent.rglob("*")
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".") and str(file.resolve()) not in rows
    )
    if unlisted:
        messages.append(
            f"{table.parent}: {len(unlisted)} files that {TABLE} does not name are ignored, such as {unlisted[0]}."
        )
    report(messages)
