"""`load_hub` loads a dataset of the Hugging Face Hub, or a folder of Parquet files, as a `DatasetDict`."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets as hf_datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets

from ..common import BODY_PARTS
from ..errors import DatasetError
from .mura import ANNOTATION_FILE
from .splits import (
    FEATURES,
    SPLITS,
    Row,
    SplitOptions,
    assign_patients,
    check_body_parts,
    check_studies,
    make_dataset,
    make_row,
    number_views,
    report,
)

HUB_PREFIX = "hub:"
"""Optional prefix of a dataset name, needed if a folder has the same name."""

_REQUIRED = ("image", "label", "study_id", "patient_id")
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_NAMES_OF_SPLITS = {
    "train": ("train",),
    "valid": ("valid", "test", "validation", "val"),
    "dev": ("dev", "validation", "val"),
    "calib": ("calib",),
}


def find_dataset(root: str | os.PathLike[str]) -> str | None:
    """Returns the name or folder for `datasets` if `load_hub` is the right loader, else None.

    That is the case for "hub:owner/name", for "owner/name" if there is no such folder, and for a folder that
    `save_to_disk` wrote or that contains Parquet files, directly or in its folder `data`.
    """
    text, folder = str(root), Path(root)
    if text.startswith(HUB_PREFIX):
        return text.removeprefix(HUB_PREFIX)
    if not folder.exists():
        return text if _NAME.fullmatch(text) and not text.startswith(".") else None
    saved = (folder / "dataset_dict.json").is_file()
    stored = [file for place in (folder, folder / "data") for file in place.glob("*.parquet")]
    return text if saved or any(file.name != ANNOTATION_FILE for file in stored) else None


def load_hub(
    root: str | os.PathLike[str], body_parts: Sequence[str] | None = None, **split_options: Any
) -> DatasetDict:
    """Loads a dataset of the Hub, a folder of Parquet files, or a folder that `save_to_disk` wrote. Decodes no image.

    Required columns: `image` (`datasets.Image`), `label` (0, 1, or normal and abnormal), `study_id` and `patient_id`.
    Optional columns: `body_part` (one of the seven, or empty) and `view` (a number). Others are ignored.

    The split `train` is required. `valid` is the split valid, else test, else validation; if there is none of them, it
    is taken from train. `dev` is the split dev, or validation if that is not already `valid`. What is missing of `dev`
    and `calib` is taken from train, by patient. Messages on stderr say how splits are used.

    Args:
        root: The folder, or "owner/name" on the Hub, optionally with "hub:" before it and "@revision" after it.
        body_parts: Body parts to load. Defaults to every row.
        **split_options: See `SplitOptions`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `FEATURES`.

    Raises:
        DatasetError: If it cannot be loaded, a column or split is missing, a value is invalid, or a patient is in two
            splits.
        ValueError: If a body part is unknown or an option is invalid.
    """
    wanted = None if body_parts is None else check_body_parts(body_parts)
    options = SplitOptions(**split_options)
    name = find_dataset(root) or str(root)
    found = _load(name)
    names, messages = _match_splits(found, name)
    if options.fold is not None and "dev" in names:
        raise DatasetError(f"{name} has a dev split ({names['dev']}), so it cannot be divided into folds")
    by_split = {split: _read_rows(found[other], f"{name}, split {other}") for split, other in names.items()}
    rows = [row for split in by_split.values() for row in split]
    if _complete_ids(rows):
        messages.append(f"{name}: patients share values of study_id, so a study is identified by both.")
    check_studies(rows, name)
    # Patients are assigned over all rows, so that a patient stays in one split whichever body parts are loaded.
    splits = _splits_of_patients(by_split, name) | assign_patients(by_split["train"], options, name, given=names)
    if "valid" not in names:
        messages.append(f"{name} has no held-out split, so {options.valid_fraction:.0%} of the patients become valid.")
    report(messages)
    order = sorted(range(len(rows)), key=lambda n: (rows[n]["study_id"], rows[n]["view"]))
    if wanted is not None:
        order = [n for n in order if rows[n]["body_part"] in wanted]
    if not order:
        raise DatasetError(f"{name} has no study of {', '.join(wanted or BODY_PARTS)}; choose other body parts")
    columns = [
        found[other].select_columns(["image"]).cast_column("image", Image(decode=False)) for other in names.values()
    ]
    images = concatenate_datasets(columns)
    return DatasetDict(
        {
            split: _select(images, rows, [n for n in order if splits[rows[n]["patient_id"]] == split])
            for split in SPLITS
        }
    )


def _load(name: str) -> DatasetDict:
    is_folder = Path(name).is_dir()
    repo, _, revision = name.partition("@")
    try:
        if (Path(name) / "dataset_dict.json").is_file():
            return hf_datasets.load_from_disk(name)
        if is_folder:
            return hf_datasets.load_dataset(name)
        return hf_datasets.load_dataset(repo, revision=revision or None)
    except Exception as error:  # of any type, from network or files
        what = "cannot be read as a dataset" if is_folder else "is neither a folder nor an available dataset"
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        advice = "check its files" if is_folder else "check the name and the network"
        raise DatasetError(f"{name} {what} ({type(error).__name__}: {reason}); {advice}") from error


def _match_splits(found: DatasetDict, name: str) -> tuple[dict[str, str], list[str]]:
    """Returns our split -> theirs, and messages about it."""
    if "train" not in found:
        raise DatasetError(f"{name} has no split train, only {', '.join(found)}; rename one")
    names: dict[str, str] = {}
    for split, candidates in _NAMES_OF_SPLITS.items():
        chosen = next((one for one in candidates if one in found and one not in names.values()), None)
        if chosen is not None:
            names[split] = chosen
    messages = [f"{name}: the split {other} serves as {split}." for split, other in names.items() if split != other]
    ignored = [split for split in found if split not in names.values()]
    if ignored:
        messages.append(f"{name}: the splits {', '.join(ignored)} are ignored.")
    return names, messages


def _read_rows(dataset: Dataset, where: str) -> list[Row]:
    """Reads all columns but the images."""
    absent = [column for column in _REQUIRED if column not in dataset.column_names]
    if absent:
        raise DatasetError(
            f"{where} lacks the columns {', '.join(absent)}; it has {', '.join(dataset.column_names)}. Rename them: "
            "image, label, study_id and patient_id are required, since a patient must not be in two splits"
        )
    if not isinstance(dataset.features["image"], Image):
        raise DatasetError(f'{where}: image is {dataset.features["image"]}; use cast_column("image", Image())')
    if dataset.data.column("image").null_count:
        raise DatasetError(f"{where}: {dataset.data.column('image').null_count} rows have no image; remove them")
    names = [name for name in (*_REQUIRED[1:], "body_part", "view") if name in dataset.column_names]
    columns = [_values(dataset, name) for name in names]
    rows: list[Row] = []
    for number, values in enumerate(zip(*columns, strict=True)):
        record = dict(zip(names, values, strict=True))
        line, view = f"{where}, row {number}", record.get("view")
        if view is not None and not isinstance(view, int):
            raise DatasetError(f"{line}: view is {view!r}, but must be a whole number")
        rows.append({**make_row(record, line), "view": view})
    return rows


def _values(dataset: Dataset, column: str) -> list[Any]:
    """Returns a column with class names instead of numbers."""
    feature, values = dataset.features[column], dataset[column]
    if isinstance(feature, ClassLabel):
        return [None if value is None or value < 0 else feature.names[value] for value in values]
    return list(values)


def _complete_ids(rows: Sequence[Row]) -> bool:
    """Makes study ids unique across patients and numbers views without a number. Returns whether ids were changed."""
    patients = {row["study_id"]: row["patient_id"] for row in rows}
    shared = any(row["patient_id"] != patients[row["study_id"]] for row in rows)
    for row in rows if shared else ():
        row["study_id"] = f"{row['patient_id']}/{row['study_id']}"
    number_views(rows)
    return shared


def _splits_of_patients(by_split: dict[str, list[Row]], name: str) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, rows in by_split.items():
        for row in rows:
            other = splits.setdefault(row["patient_id"], split)
            if other != split:
                raise DatasetError(
                    f"{name}: patient {row['patient_id']} is in {other} and in {split}, so figures would come out too "
                    "good; split it again by patient"
                )
    return splits


def _select(images: Dataset, rows: Sequence[Row], chosen: Sequence[int]) -> Dataset:
    """Builds a split with the columns of `FEATURES`."""
    features = Features({name: feature for name, feature in FEATURES.items() if name != "image"})
    other_columns = make_dataset([rows[n] for n in chosen], features)
    joined = concatenate_datasets([images.select(chosen), other_columns], axis=1)
    return joined.cast_column("image", FEATURES["image"]).select_columns(list(FEATURES))
