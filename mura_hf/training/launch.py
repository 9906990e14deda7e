"""`train`: trains any config, as one model or member by member. `estimate`: what that will take."""

import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from datasets import DatasetDict

from ..common import BODY_PARTS
from ..errors import ConfigError, DatasetError
from .arguments import TrainingConfig
from .checkpointing import (
    FINISHED_FILE,
    RUN_FILE,
    STATES_FOLDER,
    clear_states,
    explain_full_disk,
    identify_run,
    is_finished,
    write_identity,
)
from .ensemble import plan_members, train_members
from .processes import make_accelerator
from .records import CHECKPOINT_FOLDER
from .trainer import Trainer
from .validation import COMPOSED

_STEPS = 3


def train(
    datasets: DatasetDict,
    config: TrainingConfig,
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
    """Trains a model and keeps the epoch with the best study-level figure on `dev` (`select_by` of the config).

    Writes into `output_dir`: `checkpoint/` (model, processor, `training.json`), `metrics.jsonl` (a line per epoch),
    `curves.png`, `finished.json` at the end, and `split_manifest.json`, which stays on this machine. Class weights
    come from `train`. `valid` is not used, and `calib` only for the member weights of an ensemble. A stage that is
    evaluated on dev starts the next one from its best epoch; the checkpoint is the best epoch of the last stage.
    Ensembles and specialized models have a folder for each member beside `checkpoint/`.

    Until the end, `states/` holds the state of the run. A run that was killed continues when it is called again with
    the same arguments, and makes exactly the steps it would have made. SIGTERM and SIGINT save the state and stop all
    processes within a step. Processes on several machines need a folder that all of them see.

    Args:
        datasets: Splits of `load_mura`, or of another loader.
        config: All arguments.
        output_dir: New or empty folder, or the folder of the same run.
        data_description: What the data are, for `training.json`.
        trained_on_phantoms: Whether the data are synthetic; the checkpoint then says so with each prediction.
        cpu: Use the CPU even if there is an accelerator.
        num_workers: Processes that read files; 0 reads in this process.
        cache_dir: Folder of the pixel cache, which is built before the first epoch; None reads each file each time.
        save_minutes: Save the state at least this often, and after each epoch.
        save_steps: Also save the state after this many steps.
        tracker: Name of an Accelerate tracker, such as "tensorboard" or "wandb".

    Returns:
        Folder of the checkpoint.

    Raises:
        DatasetError: If the output folder contains something else, `dev` lacks a class, or the config needs boxes or
            finding types that the data do not have.
        ConfigError: If the device does not support the precision, or there is no such tracker.
        TrainingStopped: After SIGTERM or SIGINT; the state is saved.
        TrainingError: If too many steps had no finite loss, or the disk is full; earlier states stay.
    """
    output_dir = Path(output_dir)
    if not save_minutes > 0 or (save_steps is not None and save_steps < 1):
        raise ConfigError(f"save_minutes is {save_minutes}, save_steps {save_steps}: both must be above 0")
    shared: dict[str, Any] = {"trained_on_phantoms": trained_on_phantoms, "cpu": cpu}
    train_one: Any = partial(
        _train_one, **shared, num_workers=num_workers, cache_dir=cache_dir, save_minutes=save_minutes,
        save_steps=save_steps, tracker=tracker,
    )  # fmt: skip
    with explain_full_disk(output_dir):
        if config.model.family not in COMPOSED:
            return train_one(datasets, config, output_dir, data_description=data_description)
        return train_members(
            datasets, config, output_dir, train_one=train_one, data_description=data_description, **shared
        )


def _train_one(
    datasets: DatasetDict,
    config: TrainingConfig,
    output_dir: Path,
    *,
    cpu: bool,
    tracker: str | None,
    data_description: dict[str, Any],
    **options: Any,
) -> Path:
    """Trains one model, unless it is finished."""
    check_data(datasets, config)
    accelerator = make_accelerator(config, cpu=cpu, tracker=tracker, folder=output_dir)
    identity = identify_run(config, datasets, accelerator.num_processes)
    finished = is_finished(output_dir, identity)
    accelerator.wait_for_everyone()
    if not finished:
        if accelerator.is_main_process:
            output_dir.mkdir(parents=True, exist_ok=True)
            if not (output_dir / STATES_FOLDER).exists():
                write_identity(output_dir / RUN_FILE, identity)
        config, message = fit_body_part_head(config, datasets)
        if message is not None:
            data_description = {**data_description, "body_part_head": message}
            accelerator.print(message, file=sys.stderr)
        trainer = Trainer(datasets, config, output_dir, accelerator, data_description=data_description, **options)
        trainer.train()
        if accelerator.is_main_process:
            write_identity(output_dir / FINISHED_FILE, identity)
    if accelerator.is_main_process:
        clear_states(output_dir)
    accelerator.wait_for_everyone()
    for one in accelerator.trackers:  # not end_training, which would also end the process group
        one.finish()
    return output_dir / CHECKPOINT_FOLDER


def fit_body_part_head(config: TrainingConfig, datasets: DatasetDict) -> tuple[TrainingConfig, str | None]:
    """Leaves out the head that recognizes the body part if the data cannot train it, because it would get worse.

    Returns:
        The config, and a sentence if the head is left out, or if it comes from a checkpoint and forgets body parts.
    """
    parts = [BODY_PARTS[part] for part in sorted(set(datasets["train"]["body_part"]) - {None})]
    if not config.model.body_part_head or len(parts) == len(BODY_PARTS):
        return config, None
    named = f"train names {', '.join(parts)} only" if parts else "train names no body part"
    if len(parts) < 2:
        return config.replace(body_part_head=False), (
            f"The head that recognizes the body part is left out, because {named}: it cannot be trained, and would "
            "get worse as the rest of the model changes."
        )
    if not config.model.init_heads:
        return config, None
    return config, f"The head that recognizes the body part forgets the others, because {named}."


def check_data(datasets: DatasetDict, config: TrainingConfig) -> None:
    """Checks that a config can be trained on the data; raises `DatasetError` as `train` does."""
    if set(datasets["dev"]["label"]) != {0, 1}:
        raise DatasetError(
            "dev needs normal and abnormal studies to select an epoch; use more studies or a larger dev_fraction"
        )
    patches = any(stage.patch_size is not None for stage in config.training.stages)
    if (config.training.region_weight or patches) and "boxes" not in datasets["train"].column_names:
        raise DatasetError(
            "the config has a region_weight or stages on patches, but the data have no boxes; set region_weight to 0 "
            "and leave the patches out, or use data with boxes"
        )


def estimate(
    datasets: DatasetDict,
    config: TrainingConfig,
    *,
    cpu: bool = False,
    num_workers: int = 0,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Trains three steps of each stage of a config and measures them. Writes nothing but the pixel cache.

    Args: as for `train`. All members of a config are measured.

    Returns:
        `data`: studies and views of each split. `models`: for each trained model (named as the config, or as the
        members) `parameters` and `stages`: `name`, `steps` per epoch, `epochs` and `seconds_a_step` (median without
        the first). `peak_megabytes`: peak memory of the GPU if there is one, else of the process. `seconds`: of all
        steps of the run, without the evaluations on dev and without early stopping. `device`, `processes`,
        `precision`.

    Raises:
        MuraError: What `train` would raise before its first step.
    """
    if config.model.family in COMPOSED:
        plan = {name: (member.config, member.datasets) for name, member in plan_members(config, datasets).items()}
    else:
        check_data(datasets, config)
        plan = {config.name: (config, datasets)}
    plan = {name: (fit_body_part_head(own, rows)[0], rows) for name, (own, rows) in plan.items()}
    models, seconds, peak, accelerator = {}, 0.0, 0.0, None
    for name, (own, rows) in plan.items():
        AcceleratorState._reset_state()  # a member may have another precision than the one before
        accelerator = make_accelerator(own, cpu=cpu)
        if accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                rows, own, Path(folder), accelerator, data_description={}, num_workers=num_workers, cache_dir=cache_dir
            )
            models[name], model_seconds = _measure(trainer)
        seconds += model_seconds
        if accelerator.device.type == "cuda":
            peak = max(peak, torch.cuda.max_memory_allocated() / 2**20)
    if not peak:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    assert accelerator is not None
    data = {split: {"studies": len(set(rows["study_id"])), "views": len(rows)} for split, rows in datasets.items()}
    return {
        "data": data,
        "models": models,
        "peak_megabytes": round(peak),
        "seconds": round(seconds),
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "precision": config.training.precision,
    }


def _measure(trainer: Trainer) -> tuple[dict[str, Any], float]:
    """Figures of a model, and the seconds of all its steps."""
    stages, seconds = [], 0.0
    for stage in trainer.stages:
        trainer.start_stage(stage)
        stage.set_epoch(0)
        times = []
        iterator = iter(trainer.loader)
        for step in range(min(_STEPS, trainer.steps)):
            began = time.monotonic()
            trainer.train_step(iterator, step).loss.item()
            times.append(time.monotonic() - began)
        pace = sorted(times[1:] or times)[len(times[1:]) // 2]
        numbers = {"steps": trainer.steps, "epochs": stage.config.training.epochs, "seconds_a_step": pace}
        stages.append({"name": stage.name, **numbers})
        seconds += numbers["epochs"] * trainer.steps * pace
        trainer.end_stage()
        trainer.progress.next_stage()
    return {"parameters": sum(one.numel() for one in trainer.model.parameters()), "stages": stages}, seconds
