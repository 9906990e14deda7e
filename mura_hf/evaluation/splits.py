"""Loads the splits of a dataset as in a checkpoint's training, so that evaluation sees no training patient."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Image

from ..data import (
    HUB_PREFIX,
    SELECTION_OPTIONS,
    DataSource,
    load_data,
    make_manifest,
    manifest_source,
    read_manifest,
    split_digest,
)
from ..data.views import group_studies
from ..errors import CheckpointError, DatasetError
from ..phantoms import phantom_record
from ..radiographs import read_levels
from ..training import MANIFEST_FILE, recorded_split
from .prediction_cache import image_source


def describe_source(source: DataSource, data_dir: str | Path) -> dict[str, Any]:
    """Describes data for `training.json` and `evaluation.json`.

    Phantoms also get the record of how they were made, and datasets of the Hub their name.
    """
    description = source.to_dict()
    if source.key == "phantoms" and (made_with := phantom_record(data_dir)):
        description["made_with"] = made_with
    if not Path(data_dir).is_dir() and (name := str(data_dir).removeprefix(HUB_PREFIX)):
        description["dataset"] = name.partition("@")[0]
    return description


def sample_studies(rows: Dataset, number: int) -> list[tuple[list[np.ndarray], int]]:
    """Reads studies that are spread evenly over a split: gray levels uint8 `[H, W]` of their views, and label."""
    rows = rows.cast_column("image", Image(decode=False))
    groups = list(group_studies(rows["study_id"]).values())
    found = []
    for place in np.unique(np.linspace(0, len(groups) - 1, min(number, len(groups))).round().astype(int)):
        views = [rows[row] for row in groups[place]]
        found.append(([read_levels(image_source(view["image"])) for view in views], int(views[0]["label"])))
    return found


def load_split(folder: str | Path, data_dir: str | Path, split: str) -> tuple[Dataset, dict[str, Any]]:
    """Returns the rows of one split and their description; see `load_splits`."""
    datasets, description = load_splits(folder, data_dir, split)
    return datasets[split], description


def load_splits(folder: str | Path, data_dir: str | Path, split: str) -> tuple[DatasetDict, dict[str, Any]]:
    """Loads data with the body parts, fractions and seed in the checkpoint's `training.json`.

    Args:
        folder: The checkpoint.
        data_dir: Folder of the data. For `valid` this may be another dataset than that of training.
        split: The split that will be used: "train" for an index, else the one that will be evaluated.

    Returns:
        All splits, and their description from `describe_source`.

    Raises:
        CheckpointError: If the checkpoint has no `training.json`, so its training data are unknown.
        DatasetError: If the split may hold training patients. That is so for `dev` and `calib` of other data than
            those of training; for `valid` of other phantoms from the same seed; and for `valid` of another copy of
            data without official splits, unless the split manifest beside the checkpoint proves otherwise.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder on this machine; give the folder of a checkpoint")
    try:
        record = json.loads((folder / "training.json").read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no training.json, so its splits are unknown; train with scripts/train.py from a checkout "
            "of the repository"
        ) from error
    data, options = record["data"], recorded_split(record)
    selection = {name: data[name] for name in SELECTION_OPTIONS if data.get(name, "all") != "all"}
    try:
        datasets, source = load_data(data_dir, **selection, **options)
    except ValueError:  # another dataset, which does not have the selection: load all of it
        datasets, source = load_data(data_dir, **options)
    description = describe_source(source, data_dir)
    studies = ((name, study) for name, rows in datasets.items() for study in rows["study_id"])
    if split_digest(studies) == data["split_digest"]:
        return datasets, description
    made, known = description.get("made_with"), data.get("made_with")
    if made and known and made["seed"] == known["seed"]:
        raise DatasetError(
            f"{data_dir} is another tree of phantoms from seed {made['seed']}, which {folder} was trained on, so its "
            f"{split} holds training patients; make phantoms with another --seed"
        )
    if split != "valid":
        raise DatasetError(
            f"{data_dir} is not what {folder} was trained on, so its {split} may hold training patients; use valid"
        )
    if source.key == data.get("key") and not source.has_official_valid:  # another copy may have another valid
        _check_manifest(folder, datasets["valid"], description, data_dir)
    return datasets, description


def _check_manifest(folder: Path, rows: Dataset, description: dict[str, Any], data_dir: str | Path) -> None:
    """Raises `DatasetError` unless the manifest beside the checkpoint proves that training saw no patient of it."""
    file = folder.parent / MANIFEST_FILE
    if not file.is_file():
        raise DatasetError(
            f"{data_dir} is not the copy that {folder} was trained on, so its valid may hold training patients, and "
            f"no {MANIFEST_FILE} beside the checkpoint proves otherwise; use the copy of training"
        )
    names = {*rows["patient_id"], *rows["study_id"]}  # a manifest has either
    held_out = make_manifest((("valid", name) for name in names), manifest_source(description))
    shared = read_manifest(file).shared_with(held_out)
    count = sum(number for (seen, _), number in shared.items() if seen != "valid")
    if count:
        raise DatasetError(
            f"{data_dir} is not the copy that {folder} was trained on, and {count} patients or studies of its valid "
            "were then in train, dev or calib; use the copy of training"
        )
