"""`load_folder` loads your own radiographs, described by a table or by their folders, as a `DatasetDict`."""

import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from datasets import DatasetDict

from ..errors import DatasetError
from ..models.configuration_mura import LABELS
from ..radiographs import find_kind, is_hidden
from .duplicates import group_duplicates
from .splits import (
    FEATURES,
    Row,
    SplitOptions,
    assign_patients,
    check_body_parts,
    check_studies,
    list_files,
    make_row,
    make_splits,
    number_views,
    read_table,
    report,
)

TABLES = ("metadata.csv", "metadata.jsonl")
"""Names of a table in the folder; the first one that exists is read."""

_COLUMNS = ("file_name", "label", "study_id", "patient_id", "body_part")


def load_folder(
    root: str | os.PathLike[str], body_parts: Sequence[str] | None = None, **split_options: Any
) -> DatasetDict:
    """Loads a folder of radiographs: PNG, JPEG, TIFF, BMP, WebP or DICOM, 8 or 16 bit.

    A table `metadata.csv` or `metadata.jsonl` has the columns `file_name` (relative to the folder) and `label`
    (normal, abnormal, 0 or 1), and optionally `study_id`, `patient_id` and `body_part` (one of the seven, or empty).
    Without `study_id` every file is a study of its own. Without `patient_id` every study counts as a patient of its
    own: the same patient may then be in train and in valid, and every figure comes out too good. A message on stderr
    says so. Near-duplicates still stay in one split: files are decoded once to find them, as thumbnails that are kept
    in `home_folder()`. Studies that share near-duplicates get the same `patient_id`.

    Without a table, the files in the folders `normal` and `abnormal` are loaded, each as a study of its own.

    Args:
        root: The folder. Its files may be links, as in a snapshot of the Hub.
        body_parts: Body parts to load. Defaults to every row, including those without a body part.
        **split_options: See `SplitOptions`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `FEATURES`. If any file is neither PNG nor JPEG,
        the column `image` contains paths instead of images; `read_radiograph` reads them.

    Raises:
        DatasetError: If table or files are missing, a value is invalid, or rows contradict each other. The message
            names line and file.
        ValueError: If a body part is unknown or an option is invalid.
    """
    wanted = None if body_parts is None else check_body_parts(body_parts)
    options, root = SplitOptions(**split_options), Path(os.path.abspath(root))
    table = find_table(root)
    if table is None and not has_class_folders(root):
        raise unsupported_folder(root)
    source = table or root
    records = _read_class_folders(root) if table is None else read_table(table, _COLUMNS[:2], "your radiographs")
    rows: dict[str, Row] = {}
    missing = []
    for number, record in records.items():
        where = f"{source}, line {number}"
        row = _make_row(record, root, where)
        if row["image"] in rows:
            raise DatasetError(f"{source} lists {row['image']} twice; remove one line")
        rows[row["image"]] = row
        if not os.path.isfile(row["image"]):
            missing.append(f"{record['file_name']} (line {number})")
    if missing:
        raise DatasetError(
            f"{table}: files do not exist ({len(missing)}): {list_files(missing)}; copy them, or remove the lines"
        )
    check_studies(list(rows.values()), source)
    _report(source, next(iter(records.values())), rows)
    ordered = sorted(rows.values(), key=lambda row: (row["study_id"], row["image"]))
    number_views(ordered)
    if options.group_duplicates and "patient_id" not in next(iter(records.values())):
        ordered = group_duplicates(ordered, root)
    chosen = [row for row in ordered if wanted is None or row["body_part"] in wanted]
    if not chosen:
        raise DatasetError(f"{source} names no study of {', '.join(wanted or ())}; choose other body parts")
    return make_splits(chosen, assign_patients(chosen, options, root), FEATURES)


def find_table(root: Path) -> Path | None:
    """Returns the table of a folder, or None if it has none."""
    return next((root / name for name in TABLES if (root / name).is_file()), None)


def has_class_folders(root: Path) -> bool:
    """Returns whether a folder has the folders `normal` and `abnormal`."""
    return all((root / label).is_dir() for label in LABELS)


def unsupported_folder(root: Path) -> DatasetError:
    """Returns the error about a folder that is no dataset: what it contains, and what is missing."""
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        return DatasetError(f"{root} {problem}; give a folder, or the name of a dataset of the Hub (owner/name)")
    names = sorted(f"{file.name}{'/' * file.is_dir()}" for file in root.iterdir() if not is_hidden(file.name))
    return DatasetError(
        f"{root} is not a dataset that can be loaded. It contains {list_files(names) or 'nothing'}. For your own "
        f"radiographs, add {TABLES[0]} with the columns file_name and label (normal or abnormal), or sort the files "
        "into the folders normal and abnormal; mura_hf/data/README.md describes this and lists the other datasets"
    )


def _read_class_folders(root: Path) -> dict[int, dict[str, str]]:
    names = [(f"{label}/{name}", label) for label in LABELS for name in _find_pictures(root / label)]
    empty = [label for label in LABELS if label not in {label for _, label in names}]
    if empty:
        raise DatasetError(f"{root / empty[0]} contains no picture; both folders need some")
    return {number: {"file_name": name, "label": label} for number, (name, label) in enumerate(names, 1)}


def _find_pictures(root: Path) -> Iterator[str]:
    """Yields the paths of pictures below a folder, also of those that cannot be read."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(names):
            if find_kind(Path(place, name)) in ("view", "unreadable"):
                yield Path(place, name).relative_to(root).as_posix()


def _make_row(record: dict[str, str], root: Path, where: str) -> Row:
    place = posixpath.normpath(record["file_name"].replace("\\", "/"))
    if place.startswith("/") or place.split("/")[0] in ("", ".", "..") or PureWindowsPath(place).drive:
        raise DatasetError(
            f"{where}: file_name is {record['file_name']!r}, but must be a path inside the folder, without .. and "
            "relative to it"
        )
    row = make_row(record, where)
    study, patient = row["study_id"] or place, row["patient_id"]
    return {
        **row,
        "image": str(root / place),
        "patient_id": patient or study,
        "study_id": f"{patient}/{study}" if patient else study,
    }


def _report(source: Path, columns: dict[str, str], rows: dict[str, Row]) -> None:
    messages = []
    unknown = sorted(set(columns) - set(_COLUMNS))
    if unknown:
        messages.append(f"{source}: unknown columns are ignored: {', '.join(unknown)}.")
    if "patient_id" not in columns:
        messages.append(
            f"{source} has no patient_id, so every study counts as a patient of its own. If a patient has several "
            "studies, some may be in train and others in valid, and every figure comes out too good."
        )
    root = source.parent if source.is_file() else source
    unlisted = [name for name in _find_pictures(root) if str(root / name) not in rows]
    if unlisted:
        reader = f"{source.name} does not name" if source.is_file() else "are neither in normal nor in abnormal"
        messages.append(f"{root}: files that {reader} are ignored: {len(unlisted)}, such as {unlisted[0]}.")
    report(messages)
