"""The Accelerate loop."""

import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from datasets import DatasetDict, Image
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from ..data import (
    UNKNOWN_PART,
    PixelCache,
    ViewDataset,
    build_pixel_cache,
    make_manifest,
    manifest_source,
    split_digest,
    write_manifest,
)
from ..errors import DatasetError
from ..losses import class_weights, region_loss, weighted_cross_entropy
from ..models import MuraForImageClassification, MuraImageProcessor
from .building import build_model, build_processor
from .curves import plot_curves
from .prediction import predict_views
from .recipe import Recipe
from .stages import make_stages

CHECKPOINT_FOLDER = "checkpoint"
MANIFEST_FILE = "split_manifest.json"


def _optimizer(model: nn.Module, weight_decay: float, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices and kernels, but neither biases nor norms."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def train(
    datasets: DatasetDict,
    recipe: Recipe,
    output_dir: str | Path,
    *,
    data_description: dict[str, Any],
    trained_on_phantoms: bool = False,
    cpu: bool = False,
    num_workers: int = 0,
    cache_dir: str | Path | None = None,
) -> Path:
    """Trains a model and keeps the epoch with the best study-level AUROC on `dev`.

    Writes into `output_dir`: `checkpoint/` (model, processor, `training.json`), `metrics.jsonl` (a line an epoch),
    `curves.png`, and `split_manifest.json`, which stays on this machine (see `make_manifest`). Class weights come from
    `train`; `calib` and `valid` are not looked at.

    Args:
        datasets: Splits of `load_mura`, or of another loader.
        recipe: Every setting.
        output_dir: New or empty folder.
        data_description: What the data are, for `training.json`.
        trained_on_phantoms: Whether they are synthetic; the checkpoint then says so wherever it answers.
        cpu: Whether to stay on the CPU where there is an accelerator.
        num_workers: Processes that read files; 0 reads in this one.
        cache_dir: Folder of the pixel cache, which is built before the first epoch where it is not there; None reads
            and resizes each file in each epoch.

    Returns:
        The checkpoint's folder.

    Raises:
        DatasetError: If the output folder is not empty, `dev` cannot rank epochs because it lacks a class, or the
            recipe asks for boxes that the data do not have.
        RuntimeError: If the loss is not finite; the best checkpoint so far stays.
    """
    output_dir = Path(output_dir)
    if set(datasets["dev"]["label"]) != {0, 1}:
        raise DatasetError(
            "dev needs normal and abnormal studies to choose an epoch by AUROC; use more studies or a larger "
            "dev_fraction"
        )
    if (recipe.region_weight or recipe.patches.epochs) and "boxes" not in datasets["train"].column_names:
        raise DatasetError(
            "the recipe has a region_weight or patches, but the data have no boxes; set both to 0, or use data with "
            "boxes"
        )
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        cpu=cpu,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        step_scheduler_with_optimizer=False,
    )
    if accelerator.is_main_process:
        if output_dir.exists() and any(output_dir.iterdir()):
            raise DatasetError(f"{output_dir} is not empty; name a new folder, so that no earlier run is lost")
        output_dir.mkdir(parents=True, exist_ok=True)
        members = ((split, patient) for split, rows in datasets.items() for patient in rows["patient_id"])
        write_manifest(make_manifest(members, manifest_source(data_description)), output_dir / MANIFEST_FILE)
    accelerator.wait_for_everyone()
    set_seed(recipe.seed)

    processor = build_processor(recipe)
    cache = None if cache_dir is None else _open_cache(datasets, processor, cache_dir, accelerator)
    dev_views = ViewDataset(datasets["dev"], processor, cache=cache)
    model = build_model(recipe, trained_on_phantoms=trained_on_phantoms).to(memory_format=torch.channels_last)
    model = accelerator.prepare(model)
    weights = (
        class_weights(torch.tensor(datasets["train"]["label"])).to(accelerator.device)
        if recipe.class_weighting
        else None
    )

    started = time.monotonic()
    history: list[dict[str, Any]] = []
    for stage in make_stages(recipe, datasets["train"], processor, cache):
        optimizer = _optimizer(accelerator.unwrap_model(model), recipe.weight_decay, stage.learning_rate)
        optimizer, loader = accelerator.prepare(optimizer, stage.loader(num_workers, accelerator.num_processes))
        steps = len(loader) * stage.epochs
        schedule = get_cosine_schedule_with_warmup(optimizer, round(recipe.warmup_fraction * steps), steps)
        for epoch in range(stage.epochs):
            stage.views.set_epoch(stage.first_epoch + epoch)
            loader.set_epoch(stage.first_epoch + epoch)
            title = f"{stage.name.capitalize()}, epoch {epoch + 1}/{stage.epochs}"
            loss = _train_epoch(model, loader, optimizer, schedule, accelerator, recipe, weights, title)
            dev = None
            if stage.judged:
                dev = predict_views(
                    model, dev_views, accelerator, batch_size=recipe.batch_size, progress="dev"
                ).study_metrics()
            best = dev is not None and _auroc(dev) > max(
                (_auroc(record["dev"]) for record in history if record["dev"]), default=-1.0
            )
            seconds = round(time.monotonic() - started, 1)
            history.append(
                {"stage": stage.name, "epoch": epoch + 1, "train_loss": loss, "dev": dev, "seconds": seconds}
            )
            if accelerator.is_main_process:
                _report(history, output_dir, kept=best)
                if best:
                    record = _record(recipe, datasets, data_description, history, accelerator)
                    _save(accelerator.unwrap_model(model), processor, record, output_dir / CHECKPOINT_FOLDER)
            accelerator.wait_for_everyone()
    accelerator.end_training()
    return output_dir / CHECKPOINT_FOLDER


def _open_cache(
    datasets: DatasetDict, processor: MuraImageProcessor, folder: str | Path, accelerator: Accelerator
) -> PixelCache:
    """The cache of train and dev, built by the main process while the others wait."""
    pictures = [datasets[split].cast_column("image", Image(decode=False))["image"] for split in ("train", "dev")]
    files = [picture["path"] for column in pictures for picture in column if picture["bytes"] is None]
    with accelerator.main_process_first():
        return build_pixel_cache(files, processor, folder, progress=accelerator.is_main_process)


def _auroc(figures: dict[str, Any]) -> float:
    return float(figures["auroc"])


def _report(history: list[dict[str, Any]], folder: Path, *, kept: bool) -> None:
    """Says and writes down how the last epoch went."""
    last = history[-1]
    told = f"{last['stage'].capitalize()}, epoch {last['epoch']}: loss {last['train_loss']:.4f}"
    if last["dev"]:
        told += f", dev studies AUROC {last['dev']['auroc']:.3f}, kappa {last['dev']['kappa'] or 0:.3f}"
    tqdm.write(told + " (kept)" * kept)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(last) + "\n")
    plot_curves(history, folder / "curves.png")


def _train_epoch(
    model: nn.Module,
    loader: Any,
    optimizer: Any,
    schedule: Any,
    accelerator: Accelerator,
    recipe: Recipe,
    weights: torch.Tensor | None,
    title: str,
) -> float:
    """One pass over train; returns the mean loss."""
    model.train()
    total = torch.zeros((), device=accelerator.device)
    bar = tqdm(loader, desc=title, unit="step", disable=not accelerator.is_main_process, leave=False)
    for step, batch in enumerate(bar):
        output = model(pixel_values=batch["pixel_values"].contiguous(memory_format=torch.channels_last))
        loss = weighted_cross_entropy(output.logits, batch["labels"], weights, label_smoothing=recipe.label_smoothing)
        if output.body_part_logits is not None:
            loss = loss + recipe.body_part_weight * _part_loss(output.body_part_logits, batch["body_parts"])
        if recipe.region_weight:
            with accelerator.autocast():
                scores = accelerator.unwrap_model(model).score_map(output.feature_map)
            loss = loss + recipe.region_weight * region_loss(scores, batch["regions"], batch["regions_known"])
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"the loss became {loss.item()} in step {step} of {title}; lower learning_rate or use fp32"
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total += loss.detach()
        if step % 10 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return float(accelerator.reduce(total, "mean")) / len(loader)


def _part_loss(logits: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over the views whose part is known; 0 with a gradient where none is."""
    summed = functional.cross_entropy(logits.float(), parts, ignore_index=UNKNOWN_PART, reduction="sum")
    return summed / (parts != UNKNOWN_PART).sum().clamp_min(1)


def _record(
    recipe: Recipe,
    datasets: DatasetDict,
    data_description: dict[str, Any],
    history: list[dict[str, Any]],
    accelerator: Accelerator,
) -> dict[str, Any]:
    members = ((split, study) for split, rows in datasets.items() for study in rows["study_id"])
    return {
        "recipe": recipe.to_dict(),
        "data": {
            **data_description,
            "split_digest": split_digest(members),
            "studies": {split: len(set(rows["study_id"])) for split, rows in datasets.items()},
            "views": {split: len(rows) for split, rows in datasets.items()},
        },
        "selected_by": "study-level AUROC on dev",
        "epoch": history[-1]["epoch"],
        "dev": history[-1]["dev"],
        "seconds": history[-1]["seconds"],
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "versions": {name: version(name) for name in ("torch", "timm", "transformers", "accelerate", "datasets")},
    }


def _save(
    model: MuraForImageClassification, processor: MuraImageProcessor, record: dict[str, Any], folder: Path
) -> None:
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
