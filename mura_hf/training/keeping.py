"""What a run leaves on disk."""

import hashlib
import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import DatasetDict
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm.auto import tqdm

from ..common import replace_file, sync_folder, sync_names
from ..data import split_digest
from ..models import MuraImageProcessor
from .recipe import Recipe
from .selecting import told_of_metrics, told_of_selection
from .starting import PHANTOM, describe_start

CHECKPOINT_FOLDER = "checkpoint"
MANIFEST_FILE = "split_manifest.json"
FINISHED_FILE = "finished.json"
RUN_FILE = "run.json"
STATES_FOLDER = "states"
_VERSIONS = ("mura_hf", "torch", "timm", "transformers", "accelerate", "datasets", "numpy")


def tell_epoch(entry: dict[str, Any], *, kept: bool) -> None:
    """Says how an epoch went."""
    told = f"{entry['stage'].capitalize()}, epoch {entry['epoch']}: loss {entry['train_loss']:.4f}"
    if entry["dev"]:
        told += f", dev studies {told_of_metrics(entry['dev'])}"
    if entry["skipped_steps"]:
        told += f", {entry['skipped_steps']} steps left out"
    tqdm.write(told + " (kept)" * kept)


def write_history(history: list[dict[str, Any]], folder: Path) -> None:
    """Writes metrics.jsonl anew, so that it is that of the run as it stands."""
    replace_file(folder / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in history).encode())


def make_record(
    recipe: Recipe,
    datasets: DatasetDict,
    data_description: dict[str, Any],
    accelerator: Accelerator,
    **how: Any,
) -> dict[str, Any]:
    """What `training.json` holds.

    Args:
        recipe: Every setting.
        datasets: All splits.
        data_description: What they are.
        accelerator: Of the run.
        **how: What came out, such as `epoch`, `dev` and `seconds`.
    """
    members = ((split, study) for split, rows in datasets.items() for study in rows["study_id"])
    base = describe_start(recipe)
    # The record travels with the checkpoint, and shows no path of this machine.
    start = recipe.init_from
    if base and base["sha256"] and base["revision"] is None and start != PHANTOM:
        start = base["name"]
    return {
        "recipe": {
            **recipe.to_dict(),
            "init_from": start,
            "members": [Path(name).stem for name in recipe.members],
            "router": recipe.router and Path(recipe.router).stem,
        },
        **({"base": base} if base else {}),
        "data": {
            **data_description,
            "split_digest": split_digest(members),
            "studies": {split: len(set(rows["study_id"])) for split, rows in datasets.items()},
            "views": {split: len(rows) for split, rows in datasets.items()},
        },
        "selected_by": told_of_selection(recipe.select_by),
        **how,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "versions": {name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
    }


def save_checkpoint(
    model: Any,
    processor: MuraImageProcessor,
    record: dict[str, Any],
    folder: Path,
    weights: dict[str, Any] | None = None,
) -> None:
    """Puts a new checkpoint in the place of the kept one, which stays until the new one is written whole.

    Args:
        model: The model.
        processor: Its processor.
        record: Of `make_record`.
        folder: The checkpoint's.
        weights: To be written in the place of the model's own.
    """
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh, state_dict=weights)
    processor.save_pretrained(fresh)
    (fresh / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    sync_folder(fresh)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    fresh.rename(folder)
    sync_names(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def checkpoint_is_of(folder: Path, best: dict[str, Any], weights: dict[str, torch.Tensor]) -> bool:
    """Whether the checkpoint that stands is that of an epoch, with its weights."""
    try:
        record = json.loads((folder / "training.json").read_text())
        stand = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError):
        return False
    same = all(record.get(name) == best[name] for name in ("stage", "epoch", "dev"))
    return same and stand.keys() <= weights.keys() and all(torch.equal(stand[name], weights[name]) for name in stand)


def identity_of(recipe: Recipe, datasets: DatasetDict, processes: int) -> dict[str, Any]:
    """By what a run is known again: recipe, split, and the number of processes, on which batches depend."""
    members = ((split, study) for split, rows in datasets.items() for study in rows["study_id"])
    kept = {
        "recipe": recipe.to_dict(),
        "split_digest": split_digest(members),
        "rows_digest": _digest_rows(datasets),
        "processes": processes,
    }
    return json.loads(json.dumps(kept))


def _digest_rows(datasets: DatasetDict) -> str:
    """SHA-256 over study, label and body part of the rows that are trained on and judged by, in their order."""
    digest = hashlib.sha256()
    for split in ("train", "dev", "calib"):
        rows = datasets.get(split)
        if rows is not None:
            columns = [rows[name] for name in ("study_id", "label", "body_part") if name in rows.column_names]
            digest.update(json.dumps([split, columns], default=str).encode())
    return digest.hexdigest()


def differences(stands: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In what two identities differ, in words; a key that one did not know yet does not count."""
    found = [
        f"{key} was {stands['recipe'][key]!r}, now {value!r}"
        for key, value in now["recipe"].items()
        if stands["recipe"].get(key, value) != value
    ]
    if any(stands.get(name, now[name]) != now[name] for name in ("split_digest", "rows_digest")):
        found.append("the data, or how they are cut, are others")
    return found


def write_identity(file: Path, identity: dict[str, Any]) -> None:
    """Writes it, whole or not at all."""
    replace_file(file, (json.dumps(identity, indent=2) + "\n").encode())
