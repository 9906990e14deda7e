"""What a run writes for its users: the checkpoint folder with training.json, metrics.jsonl, and curves.png."""

import dataclasses
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import DatasetDict
from tqdm.auto import tqdm

from ..common import BUNDLED, replace_file, sync_folder, sync_names
from ..data import SOURCES, SplitOptions, make_manifest, manifest_source, split_digest, write_manifest
from ..models import MuraImageProcessor
from .arguments import TrainingConfig
from .configs import config_name
from .initialization import describe_base
from .prediction import SELECTIONS, selection_score

CHECKPOINT_FOLDER = "checkpoint"
MANIFEST_FILE = "split_manifest.json"
_VERSIONS = ("mura_hf", "torch", "timm", "transformers", "accelerate", "datasets", "numpy")
_TRAIN_COLOR, _DEV_COLOR = "#1f4e79", "#c55a11"


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """AUROC and kappa of studies as text."""
    kappa = metrics["kappa"]
    return f"AUROC {metrics['auroc']:.3f}, kappa {'not defined' if kappa is None else format(kappa, '.3f')}"


def print_epoch(entry: dict[str, Any], *, kept: bool) -> None:
    """Prints the figures of an epoch."""
    text = f"{entry['stage'].capitalize()}, epoch {entry['epoch']}: loss {entry['train_loss']:.4f}"
    if entry["dev"]:
        text += f", dev studies {describe_metrics(entry['dev'])}"
    if entry["skipped_steps"]:
        text += f", {entry['skipped_steps']} steps skipped"
    tqdm.write(text + " (kept)" * kept)


def flatten_entry(entry: dict[str, Any]) -> dict[str, float]:
    """Numbers of an epoch's record for a tracker, such as `dev_auroc`."""
    found = {name: value for name, value in entry.items() if isinstance(value, int | float)}
    for split in ("train", "dev"):
        found |= {f"{split}_{name}": value for name, value in (entry[split] or {}).items() if value is not None}
    return found


def write_history(history: list[dict[str, Any]], folder: Path) -> None:
    """Writes metrics.jsonl, one line per epoch."""
    replace_file(folder / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in history).encode())


def make_record(
    config: TrainingConfig, datasets: DatasetDict, data_description: Any, accelerator: Accelerator, **results: Any
) -> dict[str, Any]:
    """Content of `training.json`; `results` are `epoch`, `dev`, `seconds` and the like."""
    studies = ((split, study) for split, rows in datasets.items() for study in rows["study_id"])
    base = describe_base(config)
    # The record is part of the checkpoint and must not show paths of this machine.
    start = config.model.init_from
    if base and config.model.init_checkpoint and base["revision"] is None and start not in BUNDLED:
        start = base["name"]
    members, router = [config_name(name) for name in config.model.members], config.model.router
    arguments = {
        **config.to_dict(), "init_from": start, "members": members, "router": router and config_name(router),
    }  # fmt: skip
    former = {"model": config.model.model_kwargs, "augmentation": dataclasses.asdict(config.augmentation)}
    return {
        "arguments": arguments,
        "recipe": {**arguments, **former, "patches": {"epochs": 0}},  # name in the first edition
        **({"base": base} if base else {}),
        "data": {
            **data_description,
            "split_digest": split_digest(studies),
            "studies": {split: len(set(rows["study_id"])) for split, rows in datasets.items()},
            "views": {split: len(rows) for split, rows in datasets.items()},
        },
        "selected_by": f"study-level {SELECTIONS[config.training.select_by]} on dev",
        **results,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "versions": {name: version(name) for name in _VERSIONS} | {"python": platform.python_version()},
    }


def recorded_split(record: dict[str, Any]) -> dict[str, Any]:
    """Options of `load_data` that give the splits of a `training.json` again.

    A member of an ensemble may have another seed than its split. Old records call the split "cut". Unless they say so,
    they were not stratified, and near-duplicates were not grouped.
    """
    data = record.get("data", {})
    found = data.get("split") or data.get("cut") or record.get("arguments") or record.get("recipe", {})
    source = SOURCES.get(data.get("key", ""))
    grouped = "split" in data or (source is not None and source.has_patient_ids)
    defaults = {**dataclasses.asdict(SplitOptions()), "stratified": False, "group_duplicates": grouped}
    return {name: found.get(name, value) for name, value in defaults.items()}


def write_split_manifest(datasets: DatasetDict, data_description: dict[str, Any], folder: Path) -> None:
    """Writes split_manifest.json, keyed hashes of the patients in each split, which stays on this machine.

    Of data without patient ids it has the studies, since another copy may form other groups of these.
    """
    source = SOURCES.get(data_description.get("key", ""))
    column = "patient_id" if source is None or source.has_patient_ids else "study_id"
    members = ((split, name) for split, rows in datasets.items() for name in rows[column])
    write_manifest(make_manifest(members, manifest_source(data_description)), folder / MANIFEST_FILE)


def save_checkpoint(
    model: Any, processor: MuraImageProcessor, record: dict[str, Any], folder: Path, weights: Any = None
) -> None:
    """Replaces the checkpoint; the old one stays until the new one is complete. `weights` replace the model's own."""
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


def plot_curves(history: Sequence[dict[str, Any]], path: str | Path, *, selected_by: str = "auroc") -> None:
    """Plots losses and study-level figures of train and dev by epoch, over all stages.

    Figures of train are of augmented images and of the weights at the time of each step, so they may be below dev.

    Args:
        history: One record per epoch with `train_loss`, `dev_loss` if evaluated, and `train` and `dev`: dicts with
            `auroc` and `kappa` (None if not defined), or None for an epoch that was not evaluated on dev.
        path: PNG file.
        selected_by: Figure that selects the epoch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    epochs = range(1, len(history) + 1)
    evaluated = [epoch for epoch, record in zip(epochs, history, strict=True) if record["dev"]]
    train_losses = [record["train_loss"] for record in history]
    axes[0].plot(epochs, train_losses, marker="o", color=_TRAIN_COLOR, label="train, all")
    if evaluated:
        losses = [history[epoch - 1].get("dev_loss", float("nan")) for epoch in evaluated]
        axes[0].plot(evaluated, losses, marker="s", color=_DEV_COLOR, label="dev, cross entropy")
    axes[0].set(title="Loss", xlabel="Epoch")
    for axis, (name, label) in zip(axes[1:], (("auroc", "AUROC"), ("kappa", "Cohen's kappa")), strict=True):
        for split, color, marker in (("train", _TRAIN_COLOR, "o"), ("dev", _DEV_COLOR, "s")):
            values = [(history[epoch - 1].get(split) or {}).get(name) for epoch in evaluated]
            axis.plot(evaluated, np.asarray(values, float), marker=marker, color=color, label=split)
        axis.set(title=f"{label} of studies", xlabel="Epoch", ylim=(min(0.0, axis.get_ylim()[0]), 1.02))
    last = [epoch for epoch in evaluated if history[epoch - 1]["stage"] == history[-1]["stage"]]
    if last:  # the checkpoint is the best epoch of the last stage
        best = max(last, key=lambda epoch: selection_score(history[epoch - 1]["dev"], selected_by))
        kept = history[best - 1]
        for axis in axes[1:]:
            axis.axvline(best, color="0.6", linestyle=":", label=f"best: {kept['stage']}, epoch {kept['epoch']}")
    for axis in axes:
        axis.legend(loc="best", fontsize="small")
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)
