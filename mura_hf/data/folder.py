"""`load_folder`: anyone's radiographs with a metadata.csv as a `DatasetDict`."""

import os
from collections.abc import Sequence
from pathlib import Path

from datasets import DatasetDict

from ..errors import DatasetError
from ..models.configuration_mura import BODY_PARTS, LABELS
from .mura import check_body_parts
from .open_data import cut_and_load, read_table, tell
from .splits import FEATURES, Cut, Row

TABLE = "metadata.csv"
_NEEDED = ("file_name", "label")
_KNOWN = (*_NEEDED, "study_id", "patient_id", "body_part")
_LABELS = {"0": 0, "1": 1, LABELS[0]: 0, LABELS[1]: 1}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")


def load_folder(
    root: str | os.PathLike[str],
    body_parts: Sequence[str] | None = None,
    dev_fraction: float = 0.08,
    calib_fraction: float = 0.08,
    valid_fraction: float = 0.2,
    seed: int = 0,
    *,
    fold: int | None = None,
    n_folds: int = 5,
) -> DatasetDict:
    """Loads a folder of radiographs that `metadata.csv` describes: PNG, JPEG or DICOM, 8 or 16 bit. Decodes none.

    The table has a header with `file_name` (from the folder on) and `label` (normal, abnormal, 0 or 1), and where
    they are known `study_id`, `patient_id` and `body_part` (one of the seven, or nothing). Without `study_id` every
    file is a study of its own. Without `patient_id` every study counts as a patient of its own: the same patient may
    then be in train and in valid, and every figure comes out too good. That is said on stderr.

    Args:
        root: The folder.
        body_parts: Some of the seven; every row where None, those without a body part too.
        dev_fraction: Share of the patients outside valid for `dev`.
        calib_fraction: Likewise for `calib`.
        valid_fraction: Share of all patients for `valid`, drawn alike whatever the seed.
        seed: Of the cut.
        fold: As in `load_mura`.
        n_folds: As in `load_mura`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `FEATURES`. Where a file is neither PNG nor JPEG,
        the column `image` hands out paths instead of pictures; `read_radiograph` reads them.

    Raises:
        DatasetError: If the table or a file is missing, a value is not what it should be, or rows contradict each
            other; the message names line and file.
        ValueError: If a body part is unknown or the fractions cannot be.
    """
    wanted = None if body_parts is None else check_body_parts(body_parts)
    cut = Cut({"dev": dev_fraction, "calib": calib_fraction}, seed, fold=fold, n_folds=n_folds)
    root = Path(root)
    records = read_table(root / TABLE, _NEEDED, f"radiographs with {TABLE}")
    told = []
    unknown = sorted(set(records[0]) - set(_KNOWN))
    if unknown:
        told.append(f"{root / TABLE}: columns that are not known are not read: {', '.join(unknown)}.")
    if "patient_id" not in records[0]:
        told.append(
            f"{root / TABLE} has no patient_id, so every study counts as a patient of its own. If a patient has "
            "several studies, some may be in train and others in valid, and every figure comes out too good."
        )
    rows = [_make_row(record, root, f"{root / TABLE}, line {number}") for number, record in enumerate(records, 2)]
    _check(rows, root / TABLE)
    unlisted = _unlisted(root, rows)
    if unlisted:
        told.append(f"{root}: {len(unlisted)} files that {TABLE} does not name are not read, such as {unlisted[0]}.")
    tell(told)
    views: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (row["study_id"], row["image"])):
        row["view"] = views[row["study_id"]] = views.get(row["study_id"], 0) + 1
    rows.sort(key=lambda row: (row["study_id"], row["view"]))
    chosen = [row for row in rows if wanted is None or row["body_part"] in wanted]
    if not chosen:
        raise DatasetError(f"{root / TABLE} names no study of {', '.join(wanted or ())}; choose other body parts")
    return cut_and_load(chosen, cut, valid_fraction, FEATURES, root)


def _make_row(record: dict[str, str], root: Path, where: str) -> Row:
    name, label = record["file_name"].strip(), record["label"].strip().lower()
    file = (root / name).resolve()
    if not name or not file.is_relative_to(root.resolve()):
        raise DatasetError(f"{where}: file_name is {name!r}, but must be a path inside the folder")
    if not file.is_file():
        raise DatasetError(f"{where}: {name} is not there; copy the file, or take its line out")
    if label not in _LABELS:
        raise DatasetError(f"{where}: label is {record['label']!r}, but must be normal, abnormal, 0 or 1")
    part = (record.get("body_part") or "").strip().lower()
    if part and part not in BODY_PARTS:
        raise DatasetError(f"{where}: body_part is {part!r}, but must be one of {', '.join(BODY_PARTS)}, or nothing")
    study, patient = (_identifier(record, column, where) for column in ("study_id", "patient_id"))
    study = study or name
    return {
        "image": str(file),
        "label": _LABELS[label],
        "body_part": part or None,
        "patient_id": patient or study,
        "study_id": f"{patient}/{study}" if patient else study,
    }


def _identifier(record: dict[str, str], column: str, where: str) -> str | None:
    """The value of a column that may be missing, but must not have gaps."""
    value = record.get(column)
    if value is not None and not value.strip():
        raise DatasetError(f"{where}: {column} is empty; fill it in, or take the whole column out")
    return value and value.strip()


def _check(rows: Sequence[Row], table: Path) -> None:
    files: set[str] = set()
    studies: dict[str, Row] = {}
    for row in rows:
        if row["image"] in files:
            raise DatasetError(f"{table} lists {row['image']} twice; take one line out")
        files.add(row["image"])
        first = studies.setdefault(row["study_id"], row)
        for column in ("label", "body_part"):
            if row[column] != first[column]:
                raise DatasetError(
                    f"{table}: study {row['study_id']} has {column} {first[column]} and {row[column]}; a study has one"
                )


def _unlisted(root: Path, rows: Sequence[Row]) -> list[str]:
    known = {row["image"] for row in rows}
    return sorted(
        str(file.relative_to(root))
        for file in root.rglob("*")
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".") and str(file.resolve()) not in known
    )
