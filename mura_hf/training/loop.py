"""The Accelerate loop."""

import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, InitProcessGroupKwargs, set_seed
from datasets import DatasetDict, Image

from ..data import PixelCache, ViewDataset, build_pixel_cache, make_manifest, manifest_source, write_manifest
from ..data.loading import describe_positive_class
from ..errors import ConfigError, DatasetError
from ..losses import build_metric_loss
from ..models import MuraImageProcessor
from .agreement import Agreement
from .assembling import train_members
from .building import build_model, build_processor
from .claiming import stands_finished
from .families import ASSEMBLED
from .keeping import (
    CHECKPOINT_FOLDER,
    FINISHED_FILE,
    MANIFEST_FILE,
    RUN_FILE,
    STATES_FOLDER,
    identity_of,
    write_identity,
)
from .objective import read_truth
from .recipe import Recipe
from .resuming import clear_states, take_up
from .run import Run
from .running import keep_average, run_stage
from .snapshot import telling_of_full_disks
from .stages import Stage, make_stages

_LONGEST_WAIT = timedelta(hours=6)
"""For the main process: it builds the pixel cache while the others wait."""


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
    save_minutes: float = 10.0,
    save_steps: int | None = None,
    tracker: str | None = None,
) -> Path:
    """Trains a model and keeps the epoch with the best study-level figure on `dev` (`select_by` of the recipe).

    Writes into `output_dir`: `checkpoint/` (model, processor, `training.json`), `metrics.jsonl` (a line an epoch),
    `curves.png`, `finished.json` at the end, and `split_manifest.json`, which stays on this machine (see
    `make_manifest`). Class weights come from `train`; `valid` is not looked at, nor is `calib`, but for the weights of
    an ensemble where the recipe has them fitted. Where the recipe has several stages, each judged one hands its best
    epoch to the next, and the checkpoint is the best of the last. Families that are made of members have a folder for
    each beside `checkpoint/`, see `train_members`.

    Until the end, `states/` holds what is needed to go on: a run that was killed goes on by itself when it is called
    again with the same arguments, and makes the very steps that it would have made. SIGTERM and SIGINT to a worker
    keep the state and stop all processes within a step. Processes on several machines need a folder that all see.

    Args:
        datasets: Splits of `load_mura`, or of another loader.
        recipe: Every setting.
        output_dir: New or empty folder, or that of the same run, which then goes on, or stands finished already.
        data_description: What the data are, for `training.json`.
        trained_on_phantoms: Whether they are synthetic; the checkpoint then says so wherever it answers.
        cpu: Whether to stay on the CPU where there is an accelerator.
        num_workers: Processes that read files; 0 reads in this one.
        cache_dir: Folder of the pixel cache, which is built before the first epoch where it is not there; None reads
            and resizes each file in each epoch.
        save_minutes: The state is kept at least that often, and after each epoch.
        save_steps: And after every so many steps, where not None.
        tracker: A tracker that Accelerate knows by that name, such as "tensorboard" or "wandb"; None for none.

    Returns:
        The checkpoint's folder.

    Raises:
        DatasetError: If the output folder holds something else, `dev` cannot rank epochs because it lacks a class, or
            the recipe asks for boxes or types of findings that the data do not have.
        ConfigError: If the recipe asks for a precision that the device cannot do, or there is no such tracker.
        TrainingStopped: After SIGTERM or SIGINT; the state is kept.
        TrainingError: If too many steps had no finite loss, or the disk is full; what was kept before stays.
    """
    output_dir = Path(output_dir)
    if not save_minutes > 0 or (save_steps is not None and save_steps < 1):
        raise ConfigError(f"save_minutes is {save_minutes}, save_steps {save_steps}: both must be above 0")
    options: dict[str, Any] = {
        "data_description": data_description,
        "trained_on_phantoms": trained_on_phantoms,
        "cpu": cpu,
        "num_workers": num_workers,
        "cache_dir": cache_dir,
    }
    keeping: dict[str, Any] = {"save_minutes": save_minutes, "save_steps": save_steps, "tracker": tracker}
    with telling_of_full_disks(output_dir):
        if recipe.family in ASSEMBLED:
            train_one = partial(_train_one, **options, **keeping)
            folder = train_members(datasets, recipe, output_dir, train_one=train_one, **options)
        else:
            folder = _train_one(datasets, recipe, output_dir, **options, **keeping)
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
    save_minutes: float,
    save_steps: int | None,
    tracker: str | None,
) -> Path:
    """Trains a model that is no set of members."""
    check_data(datasets, recipe)
    accelerator = make_accelerator(recipe, cpu=cpu, tracker=tracker, folder=output_dir)
    identity = identity_of(recipe, datasets, accelerator.num_processes)
    finished = stands_finished(output_dir, identity)
    accelerator.wait_for_everyone()
    if finished:
        if accelerator.is_main_process:
            clear_states(output_dir)
        return output_dir / CHECKPOINT_FOLDER
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        if not (output_dir / STATES_FOLDER).exists():
            write_identity(output_dir / RUN_FILE, identity)
    run, stages = prepare_run(
        datasets,
        recipe,
        output_dir,
        accelerator,
        data_description=data_description,
        trained_on_phantoms=trained_on_phantoms,
        num_workers=num_workers,
        cache_dir=cache_dir,
    )
    run.save_seconds, run.save_steps = 60 * save_minutes, save_steps
    take_up(run)
    if accelerator.is_main_process and run.state is None:
        members = ((split, patient) for split, rows in datasets.items() for patient in rows["patient_id"])
        write_manifest(make_manifest(members, manifest_source(data_description)), output_dir / MANIFEST_FILE)
    if tracker is not None:
        plain = {name: value for name, value in recipe.to_dict().items() if isinstance(value, str | int | float)}
        accelerator.init_trackers("mura_hf", config=plain)
    with run.signals:
        for number, stage in enumerate(stages):
            if number >= run.progress.stage:
                run_stage(run, stage, last=number + 1 == len(stages))
        if run.progress.top:
            keep_average(run)
    if accelerator.is_main_process:
        run.draw(now=True)
        write_identity(output_dir / FINISHED_FILE, identity)
        clear_states(output_dir)
    accelerator.wait_for_everyone()
    for one in accelerator.trackers:  # not end_training, which would end the processes' group for what follows
        one.finish()
    return output_dir / CHECKPOINT_FOLDER


def prepare_run(
    datasets: DatasetDict,
    recipe: Recipe,
    output_dir: Path,
    accelerator: Accelerator,
    *,
    data_description: dict[str, Any],
    trained_on_phantoms: bool,
    num_workers: int,
    cache_dir: str | Path | None,
) -> tuple[Run, list[Stage]]:
    """A run before its first step, and its stages; see `train` for the arguments."""
    set_seed(recipe.seed)
    processor = build_processor(recipe)
    cache = None if cache_dir is None else _open_cache(datasets, processor, cache_dir, accelerator)
    dev_views = ViewDataset(datasets["dev"], processor, cache=cache)
    model = build_model(recipe, trained_on_phantoms=trained_on_phantoms)
    model.config.positive_class_description = describe_positive_class(data_description)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    stages = make_stages(recipe, datasets["train"], processor, cache)
    metric = recipe.metric_loss and build_metric_loss({"name": recipe.metric_loss.name, **recipe.metric_loss.options})
    run = Run(
        recipe=recipe,
        datasets=datasets,
        data_description=data_description,
        output_dir=output_dir,
        accelerator=accelerator,
        agreement=Agreement(accelerator),
        processor=processor,
        model=model.to(accelerator.device),
        dev_views=dev_views,
        truth=read_truth(recipe, datasets["train"], accelerator.device),
        metric=metric,
        num_workers=num_workers,
        planned_steps=sum(stage.planned_steps(accelerator.num_processes) for stage in stages),
    )
    return run, stages


def make_accelerator(
    recipe: Recipe, *, cpu: bool, tracker: str | None = None, folder: Path | None = None
) -> Accelerator:
    """The accelerator of a recipe.

    Raises:
        ConfigError: If the device cannot do the recipe's precision, or the tracker is not known or not installed.
    """
    try:
        accelerator = Accelerator(
            mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
            cpu=cpu,
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
            step_scheduler_with_optimizer=False,
            log_with=tracker,
            project_dir=folder,
            # A stage of metric learning or FuseNet leaves parts of the model unused.
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=recipe.family != "classifier"),
                InitProcessGroupKwargs(timeout=_LONGEST_WAIT),
            ],
        )
    except ValueError as error:
        raise ConfigError(f"precision {recipe.precision}, tracker {tracker}: {error}") from error
    if recipe.precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("fp16 needs a GPU; set precision to bf16 or fp32")
    if recipe.precision == "bf16" and accelerator.device.type == "cpu" and not cpu_has_bf16():
        warnings.warn(
            "this processor has no instructions for bf16, which is slower by far than fp32; set precision to fp32",
            stacklevel=2,
        )
    if tracker is not None and not accelerator.log_with:
        raise ConfigError(f"the tracker {tracker} is not installed; install it with pip, or choose another")
    return accelerator


def cpu_has_bf16() -> bool:
    """Whether the processor has instructions for bf16."""
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def check_data(datasets: DatasetDict, recipe: Recipe) -> None:
    """Refuses data that a recipe cannot be trained on.

    Raises:
        DatasetError: See `train`.
    """
    if set(datasets["dev"]["label"]) != {0, 1}:
        raise DatasetError(
            "dev needs normal and abnormal studies to choose an epoch by AUROC; use more studies or a larger "
            "dev_fraction"
        )
    patches = recipe.patches.epochs or any(stage.patch_size is not None for stage in recipe.stages)
    if (recipe.region_weight or patches) and "boxes" not in datasets["train"].column_names:
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
