"""A look at a run before it is begun."""

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from datasets import DatasetDict

from .assembling import plan_members
from .epochs import train_step
from .families import ASSEMBLED
from .loop import check_data, make_accelerator, prepare_run
from .prediction import predict_views
from .recipe import Recipe
from .running import forget_prepared, set_up_stage

_STEPS = 3
_BATCHES_OF_DEV = 2


def dry_run(
    datasets: DatasetDict,
    recipe: Recipe,
    *,
    cpu: bool = False,
    num_workers: int = 0,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Trains three steps of each stage of a recipe, writes nothing but the pixel cache, and tells what a run takes.

    Args:
        datasets: As for `train`.
        recipe: Every setting; of members, all of them are looked at.
        cpu: As for `train`.
        num_workers: As for `train`.
        cache_dir: As for `train`.

    Returns:
        `data`: studies and views of each split. `models`: for each model that is trained (one, called like the
        recipe, or the members) `parameters`, `trained` (of them, in the last stage), `state_megabytes` (of a kept
        state, about) and `stages`: `name`, `steps` of an epoch, `epochs`, `losses` of the three steps and
        `seconds_a_step`, the median of those after the first. `peak_megabytes`: of the GPU's memory where there is
        one, else of the process. `seconds`: of the whole run, about, with judging dev after each epoch; without early
        stopping. `device`, `processes`, `precision`.

    Raises:
        MuraError: What `train` would raise before its first step.
    """
    check_data(datasets, recipe) if recipe.family not in ASSEMBLED else None
    if recipe.family in ASSEMBLED:
        plan = {name: (member.recipe, member.datasets) for name, member in plan_members(recipe, datasets).items()}
    else:
        plan = {recipe.name: (recipe, datasets)}
    models, seconds, peak, accelerator = {}, 0.0, 0.0, None
    for name, (own, rows) in plan.items():
        AcceleratorState._reset_state()  # a member may have another precision than the one before
        accelerator = make_accelerator(own, cpu=cpu)
        if accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            run, stages = prepare_run(
                rows,
                own,
                Path(folder),
                accelerator,
                data_description={},
                trained_on_phantoms=False,
                num_workers=num_workers,
                cache_dir=cache_dir,
            )
            told = []
            for stage in stages:
                going = set_up_stage(run, stage)
                stage.set_epoch(0)
                times, losses = [], []
                iterator = iter(going.loader)
                for step in range(min(_STEPS, going.steps)):
                    began = time.monotonic()
                    losses.append(float(train_step(run, going, iterator, step).loss))
                    times.append(time.monotonic() - began)
                pace = sorted(times[1:] or times)[len(times[1:]) // 2]
                judging = _seconds_of_dev(run) if stage.judged else 0.0
                seconds += stage.recipe.epochs * (going.steps * pace + judging)
                told.append(
                    {
                        "name": stage.name,
                        "steps": going.steps,
                        "epochs": stage.recipe.epochs,
                        "losses": losses,
                        "seconds_a_step": pace,
                        "seconds_of_dev": judging,
                    }
                )
                trained = sum(one.numel() for one in run.model.parameters() if one.requires_grad)
                run.model = accelerator.unwrap_model(going.model, keep_fp32_wrapper=False)
                forget_prepared(accelerator)
                run.progress.next_stage()
        parameters = sum(one.numel() for one in run.model.parameters())
        copies = 1 + bool(own.ema_decay) + 1 + max(0, own.average_top_k)
        kept = 4 * (copies * parameters + 2 * trained) / 2**20
        models[name] = {
            "parameters": parameters,
            "trained": trained,
            "state_megabytes": round(kept, 1),
            "stages": told,
        }
        if accelerator.device.type == "cuda":
            peak = max(peak, torch.cuda.max_memory_allocated() / 2**20)
    if not peak:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    assert accelerator is not None
    return {
        "data": {
            split: {"studies": len(set(rows["study_id"])), "views": len(rows)} for split, rows in datasets.items()
        },
        "models": models,
        "peak_megabytes": round(peak),
        "seconds": round(seconds),
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "precision": recipe.precision,
    }


def _seconds_of_dev(run: Any) -> float:
    """What it takes to judge dev, from a few batches of it."""
    views, size = run.dev_views, run.recipe.batch_size
    few = min(len(views.rows), _BATCHES_OF_DEV * size)
    part = type(views)(views.rows.select(range(few)), views.processor, cache=views.cache)
    began = time.monotonic()
    with run.accelerator.autocast():
        predict_views(run.model, part, run.accelerator, batch_size=size)
    return (time.monotonic() - began) * len(views.rows) / few
