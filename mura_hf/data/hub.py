"""`load_hub`: a dataset of the Hub, or a folder of Parquet files, with our columns as a `DatasetDict`."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets as hf_datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets

from ..errors import DatasetError
from ..models.configuration_mura import BODY_PARTS, LABELS
from .mura import check_body_parts
from .open_data import VALID_SEED, tell
from .splits import FEATURES, SPLITS, Cut, Row, cut_rows

HUB_PREFIX = "hub:"
"""Stands before the name of a dataset of the Hub, where a folder could be called the same."""

_NEEDED = ("image", "label", "study_id", "patient_id")
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HELD_OUT = ("valid", "test", "validation", "val")
_FOR_DEV = ("dev", "validation", "val")
_LABELS: dict[Any, int] = {0: 0, 1: 1, "0": 0, "1": 1, **{name: number for number, name in enumerate(LABELS)}}


def find_dataset(root: str | os.PathLike[str]) -> str | None:
    """What `datasets` would load, where that is meant; None where another loader is.

    That is "hub:owner/name"; "owner/name" where there is no such folder; and a folder that `save_to_disk` wrote, or
    with Parquet files in it or in its folder `data`.
    """
    text, folder = str(root), Path(root)
    if text.startswith(HUB_PREFIX):
        return text.removeprefix(HUB_PREFIX)
    if not folder.exists():
        return text if _NAME.fullmatch(text) and not text.startswith(".") else None
    saved = (folder / "dataset_dict.json").is_file()
    stored = [file for place in (folder, folder / "data") for file in place.glob("*.parquet")]
    return text if saved or any(file.name != "findings.parquet" for file in stored) else None


def load_hub(
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
    """Loads a dataset of the Hub, or a folder of Parquet files, or one that `save_to_disk` wrote. Decodes no picture.

    Columns: `image` (`datasets.Image`), `label` (0, 1, or normal and abnormal), `study_id` and `patient_id`; where
    they are known `body_part` (one of the seven, or nothing) and `view` (a number). Others are not read.

    Splits: `train` is needed. `valid` is what is called valid, else test, else validation; where there is none of
    them, it is cut from train. `dev` is what is called dev, or validation where that is not `valid`; what is missing
    of `dev` and `calib` is cut from train, by patient. On stderr it is said which split became what.

    Args:
        root: The folder, or "owner/name" on the Hub, with "hub:" before it or "@revision" behind where wanted.
        body_parts: Some of the seven; every row where None.
        dev_fraction: As in `load_folder`.
        calib_fraction: As in `load_folder`.
        valid_fraction: As in `load_folder`.
        seed: Of the cut.
        fold: As in `load_mura`.
        n_folds: As in `load_mura`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `FEATURES`.

    Raises:
        DatasetError: If it cannot be had, a column or split is missing, a value is not what it should be, or a
            patient is in two splits.
        ValueError: If a body part is unknown or the fractions cannot be.
    """
    wanted = None if body_parts is None else check_body_parts(body_parts)
    Cut({"dev": dev_fraction, "calib": calib_fraction}, seed, fold=fold, n_folds=n_folds)
    name = find_dataset(root) or str(root)
    found = _load(name)
    named, told = _name_splits(found, name)
    pictures, rows = {}, {}
    for split, original in named.items():
        pictures[split] = found[original].select_columns(["image"]).cast_column("image", Image(decode=False))
        rows[split] = _read_rows(found[original], f"{name}, split {original}")
    told += _name_studies(rows)
    _check(rows, name)
    if fold is not None and "dev" in rows:
        raise DatasetError(f"{name} brings a dev of its own ({named['dev']}), so it cannot be cut into folds")
    # Which patient is where; cuts are drawn over all rows, so that a patient stays in one split whatever is loaded.
    places = {row["patient_id"]: split for split in rows for row in rows[split]}
    shares = {"dev": dev_fraction, "calib": calib_fraction}
    try:
        left = rows["train"]
        if "valid" not in rows:
            places |= cut_rows(left, Cut({"valid": valid_fraction}, VALID_SEED))
            left = [row for row in left if places[row["patient_id"]] != "valid"]
            told.append(f"{name}: there is no split to hold out, so {valid_fraction:.0%} of the patients are valid.")
        missing = {split: share for split, share in shares.items() if split not in rows}
        places |= cut_rows(left, Cut(missing, seed, fold=fold, n_folds=n_folds)) if missing else {}
    except ValueError as error:
        raise DatasetError(f"{name} is too small: {error}") from error
    tell(told)
    everything = concatenate_datasets(list(pictures.values()))
    listed = [row for split in rows for row in rows[split]]
    order = sorted(range(len(listed)), key=lambda n: (listed[n]["study_id"], listed[n]["view"]))
    if wanted is not None:
        order = [n for n in order if listed[n]["body_part"] in wanted]
    if not order:
        raise DatasetError(f"{name} has no study of {', '.join(wanted or BODY_PARTS)}; choose other body parts")
    return DatasetDict(
        {
            split: _make_split(everything, listed, [n for n in order if places[listed[n]["patient_id"]] == split])
            for split in SPLITS
        }
    )


def _load(name: str) -> DatasetDict:
    folder = Path(name)
    repo, _, revision = name.partition("@")
    try:
        if (folder / "dataset_dict.json").is_file():
            found: Any = hf_datasets.load_from_disk(name)
        elif folder.is_dir():
            found = hf_datasets.load_dataset(name)
        else:
            found = hf_datasets.load_dataset(repo, revision=revision or None)
    except Exception as error:  # whatever the network, or the files, do
        what = "cannot be read as a dataset" if folder.is_dir() else "is no folder, and no dataset that can be had"
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        way = "check its files" if folder.is_dir() else "check the name and the network"
        raise DatasetError(f"{name} {what} ({type(error).__name__}: {reason}); {way}") from error
    return found


def _name_splits(found: DatasetDict, name: str) -> tuple[dict[str, str], list[str]]:
    """Our split -> theirs, and what is said about it."""
    if "train" not in found:
        raise DatasetError(f"{name} has no split train, only {', '.join(found)}; name one so")
    named = {"train": "train"}
    for ours, theirs in (("valid", _HELD_OUT), ("dev", _FOR_DEV), ("calib", ("calib",))):
        chosen = next((one for one in theirs if one in found and one not in named.values()), None)
        if chosen is not None:
            named[ours] = chosen
    told = [f"{name}: the split {theirs} serves as {ours}." for ours, theirs in named.items() if ours != theirs]
    unread = [split for split in found if split not in named.values()]
    if unread:
        told.append(f"{name}: the splits {', '.join(unread)} are not read.")
    return named, told


def _read_rows(rows: Dataset, where: str) -> list[Row]:
    """Everything but the pictures."""
    absent = [column for column in _NEEDED if column not in rows.column_names]
    if absent:
        raise DatasetError(
            f"{where} lacks the columns {', '.join(absent)}; it has {', '.join(rows.column_names)}. Rename what is "
            "meant: image, label, study_id and patient_id are needed, since a patient may not be in two splits"
        )
    if not isinstance(rows.features["image"], Image):
        raise DatasetError(f'{where}: image is {rows.features["image"]}; cast it, cast_column("image", Image())')
    if rows.data.column("image").null_count:
        raise DatasetError(f"{where}: {rows.data.column('image').null_count} rows have no image; take them out")
    columns = {column: _values(rows, column) for column in (*_NEEDED[1:], "body_part", "view")}
    read: list[Row] = []
    for number, (label, study, patient, part, view) in enumerate(zip(*columns.values(), strict=True)):
        line = f"{where}, row {number}"
        label = label.strip().lower() if isinstance(label, str) else label
        if isinstance(label, float) or label not in _LABELS:
            raise DatasetError(f"{line}: label is {label!r}, but must be normal, abnormal, 0 or 1")
        for column, value in (("study_id", study), ("patient_id", patient)):
            if value is None or not str(value).strip():
                raise DatasetError(f"{line}: {column} is empty; fill it in")
        part = part.strip().lower() or None if isinstance(part, str) else part
        if part is not None and part not in BODY_PARTS:
            raise DatasetError(
                f"{line}: body_part is {part!r}, but must be one of {', '.join(BODY_PARTS)}, or nothing"
            )
        if view is not None and not isinstance(view, int):
            raise DatasetError(f"{line}: view is {view!r}, but must be a whole number")
        row = {"label": _LABELS[label], "study_id": str(study).strip(), "patient_id": str(patient).strip()}
        read.append({**row, "body_part": part, "view": view})
    return read


def _values(rows: Dataset, column: str) -> list[Any]:
    """A column, names in the place of the numbers of classes; None where it is missing."""
    if column not in rows.column_names:
        return [None] * len(rows)
    feature, values = rows.features[column], rows[column]
    if isinstance(feature, ClassLabel):
        return [None if value is None or value < 0 else feature.names[value] for value in values]
    return list(values)


def _name_studies(rows: dict[str, list[Row]]) -> list[str]:
    """Makes studies' names differ between patients, and numbers views that have no number; says so."""
    listed = [row for split in rows.values() for row in split]
    patients: dict[str, set[str]] = {}
    for row in listed:
        patients.setdefault(row["study_id"], set()).add(row["patient_id"])
    shared = any(len(who) > 1 for who in patients.values())
    counted: dict[str, int] = {}
    for row in listed:
        if shared:
            row["study_id"] = f"{row['patient_id']}/{row['study_id']}"
        counted[row["study_id"]] = counted.get(row["study_id"], 0) + 1
        row["view"] = counted[row["study_id"]] if row["view"] is None else row["view"]
    return ["Patients have studies of the same study_id, so a study is told by both."] if shared else []


def _check(rows: dict[str, list[Row]], name: str) -> None:
    first: dict[str, Row] = {}
    where: dict[str, str] = {}
    for split, listed in rows.items():
        for row in listed:
            study = first.setdefault(row["study_id"], row)
            for column in ("label", "body_part"):
                if row[column] != study[column]:
                    raise DatasetError(
                        f"{name}: study {row['study_id']} has {column} {study[column]} and {row[column]}; a study has "
                        "one"
                    )
            if where.setdefault(row["patient_id"], split) != split:
                raise DatasetError(
                    f"{name}: patient {row['patient_id']} is in {where[row['patient_id']]} and in {split}; figures "
                    "would come out too good, so cut it anew by patient"
                )


def _make_split(pictures: Dataset, listed: Sequence[Row], chosen: Sequence[int]) -> Dataset:
    """Rows of a split with the columns of `FEATURES`."""
    features = Features({name: kind for name, kind in FEATURES.items() if name != "image"})
    facts = Dataset.from_dict({name: [listed[n][name] for n in chosen] for name in features}, features=features)
    joined = concatenate_datasets([pictures.select(chosen), facts], axis=1)
    return joined.cast_column("image", FEATURES["image"]).select_columns(list(FEATURES))
