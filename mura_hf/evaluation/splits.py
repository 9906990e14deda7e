"""The split that a checkpoint is to be measured on, cut as its training cut it."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from ..data import HUB_PREFIX, DataSource, load_data, make_manifest, manifest_source, read_manifest, split_digest
from ..errors import CheckpointError, DatasetError
from ..phantoms import phantom_record
from ..training import MANIFEST_FILE

_CUT = ("dev_fraction", "calib_fraction", "seed", "fold", "n_folds")
_CUT_BY_US = ("fracatlas", "grazpedwri", "folder", "hub")  # whose valid is drawn, so that another copy has another one
_CHOSEN = ("body_parts", "regions", "abnormal")


def describe_source(source: DataSource, data_dir: str | Path) -> dict[str, Any]:
    """What `training.json` and `evaluation.json` say of the data; of phantoms, how they were made, too, and the name
    of a dataset of the Hub.
    """
    made_with = phantom_record(data_dir) if source.key == "phantoms" else None
    named = None if Path(data_dir).is_dir() else str(data_dir).removeprefix(HUB_PREFIX)
    return (
        source.to_dict()
        | ({"made_with": made_with} if made_with else {})
        | ({"dataset": named.partition("@")[0]} if named else {})
    )


def load_split(folder: str | Path, data_dir: str | Path, split: str) -> tuple[Dataset, dict[str, Any]]:
    """The rows of one split, and what they are; see `load_splits`."""
    datasets, description = load_splits(folder, data_dir, split)
    return datasets[split], description


def load_splits(folder: str | Path, data_dir: str | Path, split: str) -> tuple[DatasetDict, dict[str, Any]]:
    """Loads data with the parts, shares and seed in the checkpoint's `training.json`.

    Args:
        folder: The checkpoint.
        data_dir: Folder of the data. For `valid` it may be another dataset than that of training.
        split: What is to be measured on: "dev", "calib" or "valid".

    Returns:
        All splits, and what they are, as `describe_source` says it.

    Raises:
        CheckpointError: If the checkpoint has no `training.json`, so that it is not known what it was trained on.
        DatasetError: If `dev` or `calib` is asked for and the data are not those of training: its cut would leak. So
            would `valid` of other phantoms made from the same seed, whose patients are those of training, and of
            another copy of data that have no official splits, unless the run's split manifest proves otherwise.
    """
    if not Path(folder).is_dir():
        raise CheckpointError(f"{folder} is no folder on this machine; name that of a checkpoint")
    try:
        record = json.loads((Path(folder) / "training.json").read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no training.json, so its splits are not known; train with scripts/train.py"
        ) from error
    recipe, data = record["recipe"], record["data"]
    was = data.get("cut") or recipe  # a member of an ensemble may have another seed than its cut
    cut = {name: was[name] for name in _CUT if name in was}
    cut["stratified"] = was.get("stratified", False)  # older cuts were not
    chosen = {name: data[name] for name in _CHOSEN if data.get(name, "all") != "all"}
    try:
        datasets, source = load_data(data_dir, **chosen, **cut)
    except ValueError:
        # What was chosen for training does not exist here: another dataset, whole.
        datasets, source = load_data(data_dir, **cut)
    description = describe_source(source, data_dir)
    digest = split_digest((name, study) for name, rows in datasets.items() for study in rows["study_id"])
    made, known = description.get("made_with"), data.get("made_with")
    if digest != data["split_digest"] and made and known and made["seed"] == known["seed"]:
        raise DatasetError(
            f"{data_dir} is another tree of phantoms from seed {made['seed']}, which {folder} was trained on, so its "
            f"{split} holds training patients; make phantoms with another --seed"
        )
    if split == "valid" and digest != data["split_digest"] and description["key"] == data.get("key") in _CUT_BY_US:
        _refuse_shared(Path(folder), datasets[split], description, data_dir)
    if split != "valid" and digest != data["split_digest"]:
        raise DatasetError(
            f"{data_dir} is not what {folder} was trained on, so its {split} may hold training patients; use valid"
        )
    return datasets, description


def _refuse_shared(folder: Path, rows: Dataset, description: dict[str, Any], data_dir: str | Path) -> None:
    """Raises `DatasetError` unless the manifest beside the checkpoint proves that training saw none of them."""
    file = folder.parent / MANIFEST_FILE
    if not file.is_file():
        raise DatasetError(
            f"{data_dir} is not the copy that {folder} was trained on, so its valid may hold training patients, and "
            f"there is no {MANIFEST_FILE} beside the checkpoint to tell; use the copy of training"
        )
    held_out = make_manifest((("valid", patient) for patient in rows["patient_id"]), manifest_source(description))
    shared = read_manifest(file).shared_with(held_out)
    count = sum(number for (seen, _), number in shared.items() if seen != "valid")
    if count:
        raise DatasetError(
            f"{data_dir} is not the copy that {folder} was trained on, and {count} patients of its valid were in "
            "train, dev or calib then; use the copy of training"
        )
