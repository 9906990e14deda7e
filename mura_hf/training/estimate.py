"""An estimate of what a run will take, before it starts."""

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from datasets import DatasetDict

from .arguments import TrainingConfig
from .ensemble import plan_members
from .prediction import predict_views
from .processes import make_accelerator
from .running import check_data, fit_body_part_head
from .trainer import Trainer
from .validation import COMPOSED

_STEPS = 3
_DEV_BATCHES = 2


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
        members) `parameters`, `trained` (those trained in the last stage), `state_megabytes` (of a saved state) and
        `stages`: `name`, `steps` per epoch, `epochs`, `losses` of the three steps, `seconds_a_step` (median
        without the first) and `seconds_of_dev`. `peak_megabytes`: peak memory of the GPU if there is one, else of
        the process. `seconds`: of the whole run, with the evaluation on dev after each epoch and without early
        stopping. `device`, `processes`, `precision`.

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
    """Figures of a model, and the seconds of its whole run."""
    stages, seconds, trained = [], 0.0, 0
    for stage in trainer.stages:
        trainer.start_stage(stage)
        stage.set_epoch(0)
        times, losses = [], []
        iterator = iter(trainer.loader)
        for step in range(min(_STEPS, trainer.steps)):
            began = time.monotonic()
            losses.append(float(trainer.train_step(iterator, step).loss))
            times.append(time.monotonic() - began)
        pace = sorted(times[1:] or times)[len(times[1:]) // 2]
        dev_seconds = _measure_dev(trainer) if stage.judged else 0.0
        epochs = stage.config.training.epochs
        seconds += epochs * (trainer.steps * pace + dev_seconds)
        numbers = {"steps": trainer.steps, "epochs": epochs, "losses": losses}
        stages.append({"name": stage.name, **numbers, "seconds_a_step": pace, "seconds_of_dev": dev_seconds})
        trained = sum(one.numel() for one in trainer.model.parameters() if one.requires_grad)
        trainer.end_stage()
        trainer.progress.next_stage()
    parameters, training = sum(one.numel() for one in trainer.model.parameters()), trainer.config.training
    copies = 2 + bool(training.ema_decay) + training.average_top_k
    megabytes = round(4 * (copies * parameters + 2 * trained) / 2**20, 1)
    return {"parameters": parameters, "trained": trained, "state_megabytes": megabytes, "stages": stages}, seconds


def _measure_dev(trainer: Trainer) -> float:
    """Seconds of an evaluation on dev, extrapolated from a few batches."""
    views, size = trainer.dev_views, trainer.config.training.batch_size
    few = min(len(views.rows), _DEV_BATCHES * size)
    part = type(views)(views.rows.select(range(few)), views.processor, cache=views.cache)
    began = time.monotonic()
    with trainer.accelerator.autocast():
        predict_views(trainer.model, part, trainer.accelerator, batch_size=size)
    return (time.monotonic() - began) * len(views.rows) / few
