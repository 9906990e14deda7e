"""A run, stage by stage."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import DatasetDict
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from tqdm.auto import tqdm

from ..data import ViewDataset
from ..models import MuraImageProcessor, MuraModel
from ..models.freezing_mura import freeze_backbone
from .averaging import BestEpochs, save_weights
from .epochs import train_epoch
from .keeping import CHECKPOINT_FOLDER, make_record, report_epoch, save_checkpoint
from .objective import Truth
from .optimizing import RateSchedule, make_optimizer
from .prediction import SplitPredictions, predict_views
from .recipe import Recipe
from .stages import Stage

_STAGE_FILE = "best_of_stage.safetensors"
_EPOCHS_FOLDER = "best_epochs"


@dataclass
class Run:
    """All that a run works with, and how far it is.

    Attributes:
        recipe: Every setting.
        datasets: All splits.
        data_description: What they are.
        output_dir: Where it writes.
        accelerator: Of all processes.
        processor: Of the model.
        model: What is trained, bare.
        dev_views: The split that judges.
        truth: Of train.
        metric: Loss on embeddings, or None.
        num_workers: Processes that read files.
        started: When, by the monotonic clock.
        history: A record an epoch.
        best: The record of the stage's best epoch; None before there is one.
        top: Weights of the best epochs of the last stage, where they are to be averaged.
    """

    recipe: Recipe
    datasets: DatasetDict
    data_description: dict[str, Any]
    output_dir: Path
    accelerator: Accelerator
    processor: MuraImageProcessor
    model: Any
    dev_views: ViewDataset
    truth: Truth
    metric: Any | None
    num_workers: int
    started: float
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    top: BestEpochs | None = None

    def seconds(self) -> float:
        """Since the start."""
        return round(time.monotonic() - self.started, 1)

    def record(self, **further: Any) -> dict[str, Any]:
        """What `training.json` holds of the epoch that is kept."""
        best = self.best or {}
        how = {name: best.get(name) for name in ("stage", "epoch", "dev")} | {"seconds": self.seconds()} | further
        return make_record(self.recipe, self.datasets, self.data_description, self.accelerator, **how)


def run_stage(run: Run, stage: Stage, *, last: bool) -> None:
    """Trains a stage; a judged one ends with the weights of its best epoch, another with those of its last.

    Args:
        run: Is moved on.
        stage: What to do.
        last: Whether it is the run's last, whose best epoch becomes the checkpoint.
    """
    recipe, accelerator = stage.recipe, run.accelerator
    start_training(run.model, stage.trains, recipe.train_last)
    averaged = _average_of(run.model, stage) if recipe.ema_decay and stage.judged else None
    model = accelerator.prepare(run.model)
    optimizer = make_optimizer(run.model, recipe)
    optimizer, loader = accelerator.prepare(optimizer, stage.loader(run.num_workers, accelerator.num_processes))
    schedule = RateSchedule(optimizer, recipe, len(loader))
    if last and recipe.average_top_k > 1:
        run.top = BestEpochs(run.output_dir / _EPOCHS_FOLDER, recipe.average_top_k, accelerator.is_main_process)
    run.best, steps = None, 0

    def follow() -> None:
        nonlocal steps
        steps += 1
        if averaged is not None:
            averaged.update(run.model, step=steps)

    for epoch in range(recipe.epochs):
        stage.set_epoch(epoch)
        loader.set_epoch(stage.first_epoch + epoch)
        title = f"{stage.name.capitalize()}, epoch {epoch + 1}/{recipe.epochs}"
        loss = train_epoch(
            model, loader, optimizer, schedule, accelerator, stage, run.truth, run.metric, title, follow
        )
        found = None
        if stage.judged:
            with accelerator.autocast():
                found = _judge(run, model if averaged is None else averaged.module, recipe)
        entry: dict[str, Any] = {"stage": stage.name, "epoch": epoch + 1, "train_loss": loss, "dev": None}
        if found is not None:
            entry["dev"], entry["dev_loss"] = found.study_metrics(), _dev_loss(run, found)
            schedule.end_epoch(entry["dev_loss"])
        run.history.append({**entry, "seconds": run.seconds()})
        kept = found is not None and (run.best is None or _auroc(entry) > _auroc(run.best))
        if kept:
            run.best = run.history[-1]
        judged = run.model if averaged is None else averaged.module
        if found is not None and run.top is not None:
            run.top.offer(judged, epoch + 1, _auroc(entry))
        if accelerator.is_main_process:
            report_epoch(run.history, run.output_dir, kept=kept and last)
            if kept and last:
                save_checkpoint(judged, run.processor, run.record(), run.output_dir / CHECKPOINT_FOLDER)
            elif kept:
                save_weights(judged, run.output_dir / _STAGE_FILE)
        accelerator.wait_for_everyone()
        if run.best is not None and recipe.patience and epoch + 1 - run.best["epoch"] >= recipe.patience:
            if accelerator.is_main_process:
                tqdm.write(
                    f"{stage.name.capitalize()}: no better on dev for {recipe.patience} epochs, so it ends here"
                )
            break
    # The next stage wraps it anew: other parameters are trained there.
    run.model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if stage.judged and not last:
        run.model.load_state_dict(load_file(run.output_dir / _STAGE_FILE))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (run.output_dir / _STAGE_FILE).unlink()


def keep_average(run: Run) -> None:
    """Puts the average of the best epochs' weights in the place of the best epoch; the record has both figures."""
    assert run.top is not None
    run.accelerator.wait_for_everyone()
    run.model.load_state_dict(run.top.average())
    with run.accelerator.autocast():
        found = _judge(run, run.model, run.recipe)
    best, dev = run.best or {}, found.study_metrics()
    epochs = sorted(run.top.scores)
    averaged = {"epochs": epochs, "dev": dev, "dev_of_best_epoch": best.get("dev")}
    if run.accelerator.is_main_process:
        tqdm.write(
            f"Average of epochs {', '.join(map(str, epochs))}: dev studies AUROC {dev['auroc']:.3f}, the best epoch's "
            f"was {best['dev']['auroc']:.3f} (the average is kept)"
        )
        record = run.record(dev=dev, averaged=averaged)
        save_checkpoint(run.model, run.processor, record, run.output_dir / CHECKPOINT_FOLDER)
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        run.top.remove()


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


def _average_of(model: Any, stage: Stage) -> ModelEmaV3:
    """A moving average that starts at the model as it is, to be judged in its place."""
    return ModelEmaV3(model, decay=stage.recipe.ema_decay, use_warmup=True)


def _judge(run: Run, model: Any, recipe: Recipe) -> SplitPredictions:
    """The model on dev."""
    size = recipe.batch_size * (3 if recipe.level == "study" else 1)
    return predict_views(model, run.dev_views, run.accelerator, batch_size=size, progress="dev")


def _dev_loss(run: Run, found: SplitPredictions) -> float:
    """The cross entropy of dev, of views or studies and weighted as in training."""
    weights = None if run.truth.weights is None else run.truth.weights.cpu().numpy()
    return found.cross_entropy(studies=run.recipe.level == "study", weights=weights)


def _auroc(entry: dict[str, Any]) -> float:
    return float(entry["dev"]["auroc"])
