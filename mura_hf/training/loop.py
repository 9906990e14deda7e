"""The Accelerate loop."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, set_seed
from datasets import DatasetDict, Image

from ..data import PixelCache, ViewDataset, build_pixel_cache, make_manifest, manifest_source, write_manifest
from ..errors import DatasetError
from ..losses import build_metric_loss
from ..models import MuraImageProcessor
from .assembling import train_members
from .building import build_model, build_processor
from .families import ASSEMBLED
from .keeping import CHECKPOINT_FOLDER, MANIFEST_FILE, mark_finished
from .objective import read_truth
from .recipe import Recipe
from .running import Run, keep_average, run_stage
from .stages import make_stages


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
    `curves.png`, `finished.json` at the end, and `split_manifest.json`, which stays on this machine (see
    `make_manifest`). Class weights come from `train`; `valid` is not looked at, nor is `calib`, but for the weights of
    an ensemble where the recipe has them fitted. Where the recipe has several stages, each judged one hands its best
    epoch to the next, and the checkpoint is the best of the last. Families that are made of members have a folder for
    each beside `checkpoint/`, see `train_members`.

    Args:
        datasets: Splits of `load_mura`, or of another loader.
        recipe: Every setting.
        output_dir: New or empty folder; one with members may hold those that an earlier run finished.
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
            recipe asks for boxes or types of findings that the data do not have.
        RuntimeError: If the loss is not finite; the best checkpoint so far stays.
    """
    output_dir = Path(output_dir)
    options: dict[str, Any] = {
        "data_description": data_description,
        "trained_on_phantoms": trained_on_phantoms,
        "cpu": cpu,
        "num_workers": num_workers,
        "cache_dir": cache_dir,
    }
    if recipe.family in ASSEMBLED:
        folder = train_members(datasets, recipe, output_dir, train_one=partial(_train_one, **options), **options)
    else:
        folder = _train_one(datasets, recipe, output_dir, **options)
    Accelerator(cpu=cpu).end_training()
    return folder


def _train_one(
    datasets: DatasetDict,
    recipe: Recipe,
    output_dir: Path,
    *,
    data_description: dict[str, Any],
    trained_on_phantoms: bool,
    cpu: bool,
    num_workers: int,
    cache_dir: str | Path | None,
) -> Path:
    """Trains a model that is no set of members."""
    _check_data(datasets, recipe)
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        cpu=cpu,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        step_scheduler_with_optimizer=False,
        # A stage of metric learning or FuseNet leaves parts of the model unused.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=recipe.family != "classifier")],
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
    stages = make_stages(recipe, datasets["train"], processor, cache)
    metric = recipe.metric_loss and build_metric_loss({"name": recipe.metric_loss.name, **recipe.metric_loss.options})
    run = Run(
        recipe=recipe,
        datasets=datasets,
        data_description=data_description,
        output_dir=output_dir,
        accelerator=accelerator,
        processor=processor,
        model=model.to(accelerator.device),
        dev_views=dev_views,
        truth=read_truth(recipe, datasets["train"], accelerator.device),
        metric=metric,
        num_workers=num_workers,
        started=time.monotonic(),
    )
    for number, stage in enumerate(stages, 1):
        run_stage(run, stage, last=number == len(stages))
    if run.top is not None:
        keep_average(run)
    if accelerator.is_main_process:
        mark_finished(output_dir, run.record())
    accelerator.wait_for_everyone()
    return output_dir / CHECKPOINT_FOLDER


def _check_data(datasets: DatasetDict, recipe: Recipe) -> None:
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


def _open_cache(
    datasets: DatasetDict, processor: MuraImageProcessor, folder: str | Path, accelerator: Accelerator
) -> PixelCache:
    """The cache of train and dev, built by the main process while the others wait."""
    pictures = [datasets[split].cast_column("image", Image(decode=False))["image"] for split in ("train", "dev")]
    files = [picture["path"] for column in pictures for picture in column if picture["bytes"] is None]
    with accelerator.main_process_first():
        return build_pixel_cache(files, processor, folder, progress=accelerator.is_main_process)
