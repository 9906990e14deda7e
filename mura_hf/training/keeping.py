"""What a run leaves on disk."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import DatasetDict
from tqdm.auto import tqdm

from ..data import split_digest
from ..models import MuraImageProcessor
from .curves import plot_curves
from .recipe import Recipe

CHECKPOINT_FOLDER = "checkpoint"
MANIFEST_FILE = "split_manifest.json"
FINISHED_FILE = "finished.json"
SELECTED_BY = "study-level AUROC on dev"


def report_epoch(history: list[dict[str, Any]], folder: Path, *, kept: bool) -> None:
    """Says and writes down how the last epoch went."""
    last = history[-1]
    told = f"{last['stage'].capitalize()}, epoch {last['epoch']}: loss {last['train_loss']:.4f}"
    if last["dev"]:
        told += f", dev studies AUROC {last['dev']['auroc']:.3f}, kappa {last['dev']['kappa'] or 0:.3f}"
    tqdm.write(told + " (kept)" * kept)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(last) + "\n")
    plot_curves(history, folder / "curves.png")


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
    return {
        "recipe": recipe.to_dict(),
        "data": {
            **data_description,
            "split_digest": split_digest(members),
            "studies": {split: len(set(rows["study_id"])) for split, rows in datasets.items()},
            "views": {split: len(rows) for split, rows in datasets.items()},
        },
        "selected_by": SELECTED_BY,
        **how,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "versions": {name: version(name) for name in ("torch", "timm", "transformers", "accelerate", "datasets")},
    }


def save_checkpoint(model: Any, processor: MuraImageProcessor, record: dict[str, Any], folder: Path) -> None:
    """Puts a new checkpoint in the place of the kept one, which stays until the new one is written whole."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    processor.save_pretrained(fresh)
    (fresh / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def mark_finished(folder: Path, record: dict[str, Any]) -> None:
    """Leaves the sign that a run came to its end: recipe and split, by which a later one knows it as done."""
    kept = {"recipe": record["recipe"], "split_digest": record["data"]["split_digest"]}
    fresh = folder / (FINISHED_FILE + ".new")
    fresh.write_text(json.dumps(kept, indent=2) + "\n")
    fresh.rename(folder / FINISHED_FILE)
