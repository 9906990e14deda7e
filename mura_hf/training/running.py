"""A run, stage by stage."""

import hashlib
import math
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from tqdm.auto import tqdm

from ..data import HardSampler
from ..errors import TrainingError
from ..models import MuraModel
from ..models.backbone_mura import freeze_backbone
from .averaging import average_weights, is_among_best, with_epoch
from .epochs import is_broken, no_number, train_epoch
from .keeping import CHECKPOINT_FOLDER, checkpoint_is_of, save_checkpoint, tell_epoch, write_history
from .optimizing import RateSchedule, make_optimizer
from .prediction import SplitPredictions, predict_views
from .progress import Tally
from .recipe import Recipe
from .run import BufferGuard, Run, StageRun
from .selecting import score_of
from .snapshot import BEST_FILE, load_state, save_state, top_file
from .stages import Stage


def run_stage(run: Run, stage: Stage, *, last: bool) -> None:
    """Trains a stage from where the run is; a judged one ends with the weights of its best epoch, another with those
    of its last.

    Args:
        run: Is moved on.
        stage: What to do.
        last: Whether it is the run's last, whose best epoch becomes the checkpoint.

    Raises:
        TrainingStopped: If the run was told to stop.
        TrainingError: If it cannot go on.
    """
    going = set_up_stage(run, stage)
    progress, accelerator = run.progress, run.accelerator
    if run.taken_up:
        load_state(run, going)
        run.taken_up = False
        if last and progress.best and accelerator.is_main_process:
            _mend_checkpoint(run)
    while not _is_over(run, stage):
        stage.set_epoch(progress.epoch)
        going.loader.set_epoch(stage.first_epoch + progress.epoch)
        train_epoch(run, going, f"{stage.name.capitalize()}, epoch {progress.epoch + 1}/{stage.recipe.epochs}")
        _end_epoch(run, going, last=last)
    # The next stage wraps it anew: other parameters are trained there.
    run.model = accelerator.unwrap_model(going.model, keep_fp32_wrapper=False)
    forget_prepared(accelerator)
    if stage.judged and not last:
        assert run.state is not None
        run.model.load_state_dict(load_file(run.state / BEST_FILE))
        accelerator.wait_for_everyone()
    if not last:
        progress.next_stage()


def set_up_stage(run: Run, stage: Stage) -> StageRun:
    """Puts the model into a stage, and makes what trains it."""
    recipe, accelerator = stage.recipe, run.accelerator
    # What a stage draws for new layers does not depend on what came before.
    digest = hashlib.sha256(f"{recipe.seed} stage {run.progress.stage}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    start_training(run.model, stage.trains, recipe.train_last)
    averaged = ModelEmaV3(run.model, decay=recipe.ema_decay, use_warmup=True) if _averages(stage) else None
    if recipe.compile:
        run.model.compile()
    model = accelerator.prepare(run.model)
    optimizer = make_optimizer(run.model, recipe)
    optimizer, loader = accelerator.prepare(optimizer, stage.loader(run.num_workers, accelerator.num_processes))
    steps = math.ceil(len(loader) / recipe.accumulation)
    first = run.progress.total - run.progress.epoch * steps - run.progress.step
    schedule = RateSchedule(optimizer, recipe, steps)
    return StageRun(stage, model, optimizer, schedule, loader, steps, first, averaged, BufferGuard(run.model))


def forget_prepared(accelerator: Accelerator) -> None:
    """Lets go of what a stage had prepared: a scaler would unscale the gradients of every optimiser that it knows."""
    for prepared in (accelerator._models, accelerator._optimizers, accelerator._dataloaders):
        prepared.clear()


def keep_average(run: Run) -> None:
    """Puts the average of the best epochs' weights in the place of the best epoch; the record has both figures."""
    assert run.state is not None
    top, best = run.progress.top, run.progress.best or {}
    run.model.load_state_dict(average_weights({epoch: run.state / top_file(epoch) for epoch in top}, top))
    with run.accelerator.autocast():
        found = _judge(run, run.model, run.recipe)
    dev, epochs = found.study_metrics(), sorted(top)
    averaged = {"epochs": epochs, "dev": dev, "dev_of_best_epoch": best.get("dev")}
    if run.accelerator.is_main_process:
        tqdm.write(
            f"Average of epochs {', '.join(map(str, epochs))}: dev studies AUROC {dev['auroc']:.3f}, the best epoch's "
            f"was {best['dev']['auroc']:.3f} (the average is kept)"
        )
        record = run.record(dev=dev, averaged=averaged)
        save_checkpoint(run.model, run.processor, record, run.output_dir / CHECKPOINT_FOLDER)
    run.accelerator.wait_for_everyone()


def start_training(model: Any, trains: str, train_last: int | None) -> None:
    """Puts a model into a stage, and freezes all but the last stages of the backbones that it would train.

    Args:
        model: Any that classifies.
        trains: One of its `STAGES`.
        train_last: As `Recipe.train_last`.
    """
    model.start_stage(trains)
    if train_last is None:
        return
    for inner in model.modules():
        if isinstance(inner, MuraModel) and any(parameter.requires_grad for parameter in inner.parameters()):
            freeze_backbone(inner.backbone, train_last)


def _averages(stage: Stage) -> bool:
    return bool(stage.recipe.ema_decay) and stage.judged


def _is_over(run: Run, stage: Stage) -> bool:
    """Whether a stage has had all its epochs, or waited long enough for a better one."""
    recipe, progress = stage.recipe, run.progress
    if progress.epoch >= recipe.epochs:
        return True
    if progress.step or progress.best is None or not recipe.patience:
        return False
    if progress.epoch - progress.best["epoch"] < recipe.patience:
        return False
    if run.accelerator.is_main_process:
        tqdm.write(f"{stage.name.capitalize()}: no better on dev for {recipe.patience} epochs, so it ends here")
    return True


def _end_epoch(run: Run, going: StageRun, *, last: bool) -> None:
    """Judges an epoch, keeps the state, and tells how it went."""
    stage, progress, accelerator = going.stage, run.progress, run.accelerator
    recipe = stage.recipe
    if not going.tally.rows:
        raise TrainingError(f"no step of {stage.name}, epoch {progress.epoch + 1}, had a finite loss; lower its rate")
    if is_broken(run.model):
        raise no_number(f"{stage.name}, epoch {progress.epoch + 1}: the weights are")
    judged = run.model if going.averaged is None else going.averaged.module
    found = None
    if stage.judged:
        if accelerator.num_processes > 1:  # statistics of batch norms: those of the main process
            broadcast(list(judged.buffers()), from_process=0)
        with accelerator.autocast():
            found = _judge(run, judged, recipe, going)
    tally = going.tally.gather(accelerator)
    progress.samples = tally.digest(progress.samples)
    if isinstance(stage.sampler, HardSampler):
        stage.sampler.set_losses(tally.rows, tally.costs(stage.views))
    entry: dict[str, Any] = {
        "stage": stage.name, "epoch": progress.epoch + 1, "train_loss": tally.loss, "train": None, "dev": None,
    }  # fmt: skip
    if found is not None:
        if not (recipe.mixup or recipe.cutmix):  # else the answers are about no view that there is
            entry["train"] = tally.study_metrics(stage.views)
        entry["dev"], entry["dev_loss"] = found.study_metrics(), _dev_loss(run, found)
        going.schedule.end_epoch(entry["dev_loss"])
    entry |= {"skipped_steps": progress.skipped, "seconds": run.seconds(), "samples": progress.samples}
    progress.history.append(entry)
    score = None if found is None else score_of(entry["dev"], recipe.select_by)
    better = score is not None and (progress.best is None or score > score_of(progress.best["dev"], recipe.select_by))
    fresh = {BEST_FILE: judged} if better else {}
    if better:
        progress.best = entry
    most = recipe.average_top_k if last and score is not None else 0
    if most > 1 and score is not None and is_among_best(progress.top, score, most):
        progress.top = with_epoch(progress.top, progress.epoch + 1, score, most)
        fresh[top_file(progress.epoch + 1)] = judged
    progress.next_epoch()
    going.tally = Tally()
    save_state(run, going, fresh)
    if accelerator.is_main_process:
        tell_epoch(entry, kept=better and last)
        write_history(progress.history, run.output_dir)
        run.draw()
        if better and last:
            save_checkpoint(judged, run.processor, run.record(), run.output_dir / CHECKPOINT_FOLDER)
    accelerator.log(_flat(entry), step=progress.total)
    stop = run.agreement.largest(run.signals.received)[0]
    if stop:
        raise run.stopped(going, stop)


def _mend_checkpoint(run: Run) -> None:
    """Writes the best epoch's checkpoint again where a kill came before it stood."""
    folder = run.output_dir / CHECKPOINT_FOLDER
    assert run.progress.best is not None
    assert run.state is not None
    weights = load_file(run.state / BEST_FILE)
    if not checkpoint_is_of(folder, run.progress.best, weights):
        save_checkpoint(run.model, run.processor, run.record(), folder, weights=weights)


def _judge(run: Run, model: Any, recipe: Recipe, going: StageRun | None = None) -> SplitPredictions:
    """The model on dev."""

    def poll() -> None:
        stop = run.agreement.largest(run.signals.received)[0]
        if stop:
            if going is not None:  # else the state stands already
                save_state(run, going)
            raise run.stopped(going, stop)

    size = recipe.batch_size * (3 if recipe.level == "study" else 1)
    found = predict_views(model, run.dev_views, run.accelerator, batch_size=size, progress="dev", after_batch=poll)
    if not np.isfinite(found.probabilities).all():
        raise no_number("the model's answers to dev are")
    return found


def _dev_loss(run: Run, found: SplitPredictions) -> float:
    """The cross entropy of dev, of views or studies and weighted as in training."""
    weights = None if run.truth.weights is None else run.truth.weights.cpu().numpy()
    return found.cross_entropy(studies=run.recipe.level == "study", weights=weights)


def _flat(entry: dict[str, Any]) -> dict[str, float]:
    """A record's numbers by name, for trackers."""
    found = {name: value for name, value in entry.items() if isinstance(value, int | float)}
    for split in ("train", "dev"):
        found |= {f"{split}_{name}": value for name, value in (entry[split] or {}).items() if value is not None}
    return found
