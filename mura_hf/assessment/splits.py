"""The split that a checkpoint is to be measured on, cut as its training cut it."""

import json
from pathlib import Path

from datasets import Dataset

from ..data import load_mura, split_digest
from ..errors import CheckpointError, DatasetError
from ..phantoms import phantom_record


def load_split(folder: str | Path, data_dir: str | Path, split: str) -> Dataset:
    """Loads a split of MURA, or of phantoms, with the parts, shares and seed in the checkpoint's `training.json`.

    Args:
        folder: The checkpoint.
        data_dir: The folder `MURA-v1.1`, or the one that holds it.
        split: "dev", "calib" or "valid".

    Raises:
        CheckpointError: If the checkpoint has no `training.json`, so that it is not known what it was trained on.
        DatasetError: If `dev` or `calib` is asked for and the data are not those of training: its cut would leak. So
            would `valid` of other phantoms made from the same seed: their patients are those of training.
    """
    try:
        record = json.loads((Path(folder) / "training.json").read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no training.json, so its splits are not known; train with scripts/train.py"
        ) from error
    recipe, data = record["recipe"], record["data"]
    datasets = load_mura(
        data_dir,
        None if data["body_parts"] == "all" else data["body_parts"],
        recipe["dev_fraction"],
        recipe["calib_fraction"],
        seed=recipe["seed"],
    )
    digest = split_digest((name, study) for name, rows in datasets.items() for study in rows["study_id"])
    made, known = phantom_record(data_dir), data.get("made_with")
    if digest != data["split_digest"] and made and known and made["seed"] == known["seed"]:
        raise DatasetError(
            f"{data_dir} is another tree of phantoms from seed {made['seed']}, which {folder} was trained on, so its "
            f"{split} holds training patients; make phantoms with another --seed"
        )
    if split != "valid" and digest != data["split_digest"]:
        raise DatasetError(
            f"{data_dir} is not what {folder} was trained on, so its {split} may hold training patients; use valid"
        )
    return datasets[split]
