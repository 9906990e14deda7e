"""Splits of a dataset, cut as in training so that evaluation sees no training patient, and selections of rows."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Image

from ..common import LOWER_LIMB
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
from ..data.duplicates import leave_out_duplicates
from ..data.open_data import REGION_GROUPS
from ..data.splits import report
from ..data.views import group_studies
from ..errors import CheckpointError, DatasetError
from ..models import BODY_PARTS
from ..phantoms import phantom_record
from ..radiographs import read_levels
from ..training import MANIFEST_FILE, recorded_split

_SCOPE = REGION_GROUPS["upper limb"]
_UNKNOWN = "any"


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
    for place in spread_indices(len(groups), number):
        views = [rows[row] for row in groups[place]]
        found.append(([read_levels(image_source(view["image"])) for view in views], int(views[0]["label"])))
    return found


def load_split(folder: str | Path, data_dir: str | Path, split: str) -> tuple[Dataset, dict[str, Any]]:
    """Returns the rows of one split and their description; see `load_splits`."""
    datasets, description = load_splits(folder, data_dir, split)
    return datasets[split], description


def load_splits(folder: str | Path, data_dir: str | Path, split: str) -> tuple[DatasetDict, dict[str, Any]]:
    """Loads data with the body parts, fractions and seed in the checkpoint's `training.json`.

    Old checkpoints were trained on data without patient ids without grouping near-duplicates. For them `valid` is that
    of grouped data, and the evaluated split loses the studies that training has seen, or near-duplicates of which it
    has seen. A message says how many.

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
        if split != "train" and not source.has_patient_ids and not options["group_duplicates"]:
            grouped, _ = load_data(data_dir, **selection, **options | {"group_duplicates": True})
            rows = grouped["valid"] if split == "valid" else datasets[split]
            datasets[split] = leave_out_duplicates(rows, {name: datasets[name] for name in datasets if name != split})
            if n_known := len(rows) - len(datasets[split]):
                before = f"{folder} was trained without grouping near-duplicates."
                reason = "because its other splits hold them or near-duplicates of them"
                report([f"{before} {n_known} of {len(rows)} images of {split} are left out, {reason}."])
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


def spread_indices(n: int, most: int) -> np.ndarray:
    """Returns at most `most` different indices below `n`, evenly spaced and ascending: int64."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).astype(int))


def body_part_of(row: dict[str, Any]) -> str | None:
    """Returns the name of a row's body part; None if it is unknown."""
    return None if row["body_part"] is None else BODY_PARTS[row["body_part"]]


def image_source(image: dict[str, Any]) -> Any:
    """Returns the path of an image of the column `image` with `Image(decode=False)`, or its bytes if it has these."""
    return image["path"] if image["bytes"] is None else image["bytes"]


def has_regions(rows: Dataset) -> bool:
    """Returns whether the rows say which regions of the body they show."""
    return "region" in rows.column_names and any(rows["region"])


def region_members(shown: Iterable[str | None]) -> dict[str, np.ndarray]:
    """Returns name in `REGION_GROUPS` -> which of `shown` (regions joined by "+") have a region of it, bool `[n]`."""
    sets = [set((regions or "").split("+")) for regions in shown]
    return {name: np.asarray([bool(one & set(group)) for one in sets]) for name, group in REGION_GROUPS.items()}


def groups_of(rows: Dataset) -> list[str]:
    """Returns the group of each row: the first region of the upper limb that it shows, else the first of all regions.

    Rows without regions are grouped by body part.
    """
    if has_regions(rows):
        shown = [(region or _UNKNOWN).split("+") for region in rows["region"]]
        return [next((region for region in regions if region in _SCOPE), regions[0]) for regions in shown]
    return [body_part_of({"body_part": part}) or _UNKNOWN for part in rows["body_part"]]


def is_outside(group: str) -> bool:
    """Returns whether a group from `groups_of` shows nothing of the upper limb."""
    return group in LOWER_LIMB


def rows_in_scope(rows: Dataset) -> Dataset:
    """Selects the rows that checkpoints of this package are for: they show something of the upper limb.

    If the rows do not say which region they show, all are in scope.
    """
    return rows.select([index for index, group in enumerate(groups_of(rows)) if not is_outside(group)])


def rows_out_of_scope(rows: Dataset) -> Dataset:
    """Selects the rows that are not `rows_in_scope`."""
    return rows.select([index for index, group in enumerate(groups_of(rows)) if is_outside(group)])


def rows_to_measure(rows: Dataset) -> Dataset:
    """Selects the rows that figures and calibration are for: the `rows_in_scope`, or all rows if there are none."""
    inside = rows_in_scope(rows)
    return inside if len(inside) else rows
