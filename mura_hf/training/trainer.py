"""`Trainer`: trains one model with Accelerate, stage by stage."""

import hashlib
import math
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import broadcast, set_seed
from datasets import DatasetDict, Image
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn
from tqdm.auto import tqdm

from ..data import PixelCache, ViewDataset, build_pixel_cache, check_images
from ..data.loading import describe_positive_class
from ..errors import TrainingError, TrainingStopped
from ..losses import build_metric_loss
from ..models import MuraImageProcessor
from .arguments import TrainingConfig
from .checkpointing import BEST_FILE, STATES_FOLDER, Progress, load_state, resume, save_state, top_file
from .initialization import build_model, build_processor
from .objective import batch_loss, class_logits, mix_batch, read_targets
from .optimization import LearningRateSchedule, average_weights, make_optimizer, with_epoch
from .prediction import EpochMetrics, SplitPredictions, predict_views, selection_score
from .processes import ProcessGroup, StopSignals
from .records import (
    CHECKPOINT_FOLDER,
    describe_metrics,
    flatten_entry,
    make_record,
    plot_curves,
    print_epoch,
    save_checkpoint,
    write_history,
    write_split_manifest,
)
from .stage import Stage, make_stages, start_training

_BAR_INTERVAL = 10  # steps
_PLOT_INTERVAL = 60.0  # seconds


@dataclass(frozen=True)
class StepResult:
    """Result of a step, the same on all processes except for the loss."""

    loss: torch.Tensor  # loss of this process, a scalar
    skipped: bool  # whether the step was skipped because a loss or gradient was not finite
    stop: int  # number of a signal that stops the run; 0 without one
    save: bool  # whether the state is to be saved now


class Trainer:
    """Trains one model, stage by stage.

    Args:
        accelerator: From `make_accelerator`. The other arguments are those of `train`.

    Attributes:
        model: The unwrapped model.
        prepared: The model as Accelerate prepared it for the current stage.
        stage: The current stage; `optimizer`, `schedule`, `loader` and `ema` belong to it.
        progress: How far the run is.
        state: Folder of the newest saved state, or None.
    """

    def __init__(
        self,
        datasets: DatasetDict,
        config: TrainingConfig,
        output_dir: Path,
        accelerator: Accelerator,
        *,
        data_description: dict[str, Any],
        trained_on_phantoms: bool = False,
        num_workers: int = 0,
        cache_dir: str | Path | None = None,
        save_minutes: float = 10.0,
        save_steps: int | None = None,
    ) -> None:
        self.datasets, self.config, self.output_dir, self.accelerator = datasets, config, output_dir, accelerator
        self.data_description, self.num_workers = data_description, num_workers
        self.save_seconds, self.save_steps = 60 * save_minutes, save_steps
        set_seed(config.training.seed)
        self.processor = build_processor(config)
        cache = _open_images(datasets, self.processor, cache_dir, accelerator)
        self.dev_views = ViewDataset(datasets["dev"], self.processor, cache=cache)
        model = build_model(config, trained_on_phantoms=trained_on_phantoms)
        model.config.positive_class_description = describe_positive_class(data_description)
        self.model: Any = model.to(accelerator.device, memory_format=torch.channels_last)
        self.stages = make_stages(config, datasets["train"], self.processor, cache)
        name, options = config.training.metric_loss, config.training.metric_loss_options
        self.metric_loss = None if name is None else build_metric_loss(name, options)
        self.targets = read_targets(config, datasets["train"], accelerator.device)
        self.planned_steps = sum(stage.planned_steps(accelerator.num_processes) for stage in self.stages)
        self.processes = ProcessGroup(accelerator)
        self.signals = StopSignals()
        self.progress = Progress()
        self.epoch_metrics = EpochMetrics()
        self.initial_weights: dict[str, torch.Tensor] | None = None
        self.state: Path | None = None
        self.restart_clock()

    def train(self) -> None:
        """Trains all stages, from the newest saved state if there is one, and writes the checkpoint."""
        resumed = resume(self)
        if self.accelerator.is_main_process and self.state is None:
            write_split_manifest(self.datasets, self.data_description, self.output_dir)
        if self.accelerator.log_with:
            flat = {key: value for key, value in self.config.to_dict().items() if isinstance(value, str | int | float)}
            self.accelerator.init_trackers("mura_hf", config=flat)
        with self.signals:
            for number, stage in enumerate(self.stages):
                if number >= self.progress.stage:
                    self.train_stage(stage, last=number + 1 == len(self.stages), resumed=resumed)
                    resumed = False
            if self.progress.top or self.initial_weights is not None:
                self._keep_average()
        if self.accelerator.is_main_process:
            self._plot(now=True)

    def train_stage(self, stage: Stage, *, last: bool, resumed: bool) -> None:
        """Trains a stage. It ends with the weights of its best epoch on dev, or of its last one."""
        self.start_stage(stage)
        progress = self.progress
        if last and self.config.training.start_share:
            self.initial_weights = {
                name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()
            }
        if resumed:
            load_state(self)
            if last and progress.best and self.accelerator.is_main_process:
                # The run may have been killed before the checkpoint of its best epoch was complete.
                assert self.state is not None
                weights, folder = load_file(self.state / BEST_FILE), self.output_dir / CHECKPOINT_FOLDER
                save_checkpoint(self.model, self.processor, self._record(), folder, weights=weights)
        while not self._stage_is_over():
            stage.set_epoch(progress.epoch)
            self.loader.set_epoch(stage.first_epoch + progress.epoch)
            self.train_epoch()
            self._end_epoch(last=last)
        self.end_stage()
        if stage.evaluated_on_dev and not last:
            assert self.state is not None
            self.model.load_state_dict(load_file(self.state / BEST_FILE))
            self.accelerator.wait_for_everyone()
        if not last:
            progress.next_stage()

    def start_stage(self, stage: Stage) -> None:
        """Prepares model, optimizer, schedule and data of a stage."""
        training, accelerator = stage.config.training, self.accelerator
        # New layers of a stage are drawn independently of what came before.
        torch.manual_seed(_derive_seed(training.seed, "stage", self.progress.stage))
        start_training(self.model, stage.trains, training.train_last)
        use_ema = bool(training.ema_decay) and stage.evaluated_on_dev
        self.stage = stage
        self.ema = ModelEmaV3(self.model, decay=training.ema_decay, use_warmup=True) if use_ema else None
        if training.compile:
            self.model.compile()
        self.prepared: Any = accelerator.prepare(self.model)
        optimizer = make_optimizer(self.model, stage.config)
        loader = stage.loader(self.num_workers, accelerator.num_processes)
        self.optimizer, self.loader = accelerator.prepare(optimizer, loader)
        self.steps = math.ceil(len(self.loader) / training.accumulation)
        self.first_step = self.progress.total - self.progress.epoch * self.steps - self.progress.step
        self.schedule = LearningRateSchedule(self.optimizer, stage.config, self.steps)
        self.buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        self.saved_buffers = [buffer.clone() for buffer in self.buffers]
        self.epoch_metrics = EpochMetrics()

    def end_stage(self) -> None:
        """Unwraps the model, because the next stage trains other parameters, and forgets what Accelerate prepared."""
        self.model = self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
        # A gradient scaler would unscale the gradients of every optimizer it knows.
        for prepared in (self.accelerator._models, self.accelerator._optimizers, self.accelerator._dataloaders):
            prepared.clear()

    def train_epoch(self) -> None:
        """Trains the rest of the current epoch.

        All random numbers of a step depend on the seed, the number of the step, and the process, so that a resumed run
        makes exactly the steps of an uninterrupted one.

        Raises:
            TrainingStopped: If a signal stopped the run; the state is saved.
            TrainingError: If too many steps had no finite loss, or the state cannot be written.
        """
        first, training = self.progress.step, self.stage.config.training
        if first >= self.steps:
            return
        self.prepared.train()
        done = first * training.accumulation
        iterator = iter(skip_first_batches(self.loader, done) if done else self.loader)
        began, quiet = time.monotonic(), not self.accelerator.is_main_process
        title = f"{self.stage.name.capitalize()}, epoch {self.progress.epoch + 1}/{training.epochs}"
        with tqdm(total=self.steps, initial=first, desc=title, unit="step", disable=quiet, leave=False) as bar:
            for step in range(first, self.steps):
                result = self.train_step(iterator, step)
                if result.skipped:
                    self._check_skipped()
                broken = result.skipped and not _is_finite(self.model)
                if broken and result.stop:
                    raise _not_finite("stopped by a signal, but the weights are")
                if (result.save or result.stop) and not broken:
                    save_state(self)
                if result.stop:
                    raise self._stopped(result.stop)
                bar.update()
                if (step + 1) % _BAR_INTERVAL == 0:
                    pace = (time.monotonic() - began) / (step + 1 - first)
                    bar.set_postfix_str(self._describe_step(result.loss, pace), refresh=False)

    def train_step(self, iterator: Iterator[dict[str, torch.Tensor]], step: int) -> StepResult:
        """Makes step `step` of the epoch with the next `accumulation` batches.

        If a loss or gradient is not finite on any process, weights, averages and batch norm statistics stay.
        """
        training, progress, accelerator = self.stage.config.training, self.progress, self.accelerator
        save_now = int(self._is_save_due())
        n_batches = min(training.accumulation, len(self.loader) - step * training.accumulation)
        torch._foreach_copy_(self.saved_buffers, self.buffers) if self.buffers else None
        loss, seen = self._accumulate(iterator, n_batches)
        norm = accelerator.clip_grad_norm_(self.prepared.parameters(), training.max_gradient_norm or float("inf"))
        scaler = accelerator.scaler
        finite = torch.isfinite(loss) if scaler is not None else torch.isfinite(loss) & torch.isfinite(norm)
        skip, stop, save_now = self.processes.maximum(int(not finite), self.signals.received, save_now)
        if not skip or scaler is not None:  # a scaler skips the step itself, and lowers its scale
            self.optimizer.step()
        if scaler is not None and self.optimizer.step_was_skipped:
            skip = skip or int(scaler.get_scale() < 1)  # no scale makes these gradients finite
        self.schedule.step()
        self.optimizer.zero_grad()
        progress.step, progress.total = step + 1, progress.total + 1
        if skip:
            with torch.no_grad():
                torch._foreach_copy_(self.buffers, self.saved_buffers) if self.buffers else None
            progress.skipped += 1
        else:
            if self.ema is not None:
                self.ema.update(self.model, step=progress.total - self.first_step)
            for rows, logits in seen:
                self.epoch_metrics.add(rows, logits)
            self.epoch_metrics.add_loss(loss)
        return StepResult(loss, bool(skip), stop, bool(save_now))

    def _accumulate(
        self, iterator: Iterator[dict[str, torch.Tensor]], n_batches: int
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Accumulates the gradients of a step. Returns the mean loss, and rows and logits of each batch."""
        config, accelerator = self.stage.config, self.accelerator
        total, seen = torch.zeros((), device=accelerator.device), []
        for number in range(n_batches):
            batch = next(iterator)  # the first batch of an iterator draws random numbers
            position = (self.progress.total, number, accelerator.process_index)
            torch.manual_seed(_derive_seed(config.training.seed, *position))
            batch = mix_batch(batch, config, position)
            last = number + 1 == n_batches
            with nullcontext() if last else accelerator.no_sync(self.prepared):
                output, loss = self._forward_backward(batch, n_batches)
            total += loss.detach() / n_batches
            seen.append((batch["index"], class_logits(output).detach()))
        return total, seen

    def _forward_backward(self, batch: dict[str, torch.Tensor], n_batches: int) -> tuple[Any, torch.Tensor]:
        inputs = {"pixel_values": batch["pixel_values"]}
        if "view_mask" in batch:
            inputs["view_mask"] = batch["view_mask"]
        else:
            inputs["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        output = self.prepared(**inputs)
        loss = batch_loss(
            output, batch, self.stage.config, self.targets, trains=self.stage.trains, metric_loss=self.metric_loss,
            accelerator=self.accelerator, model=self.model,
        )  # fmt: skip
        self.accelerator.backward(loss / n_batches)
        return output, loss

    def evaluate(self, model: Any, *, save_on_stop: bool = True) -> SplitPredictions:
        """Predictions of a model on dev. A signal stops them, after the state is saved if `save_on_stop`."""

        def check_signals() -> None:
            stop = self.processes.maximum(self.signals.received)[0]
            if stop:
                if save_on_stop:
                    save_state(self)
                raise self._stopped(stop, averaging=not save_on_stop)

        config = self.stage.config
        size = config.training.batch_size * (3 if config.data.level == "study" else 1)
        found = predict_views(
            model, self.dev_views, self.accelerator, batch_size=size, progress="dev", after_batch=check_signals
        )
        if not np.isfinite(found.probabilities).all():
            raise _not_finite("the predictions on dev are")
        return found

    def _end_epoch(self, *, last: bool) -> None:
        stage, progress, accelerator = self.stage, self.progress, self.accelerator
        training = stage.config.training
        if not self.epoch_metrics.rows:
            raise TrainingError(
                f"no step of {stage.name}, epoch {progress.epoch + 1}, had a finite loss; lower its learning_rate"
            )
        if not _is_finite(self.model):
            raise _not_finite(f"{stage.name}, epoch {progress.epoch + 1}: the weights are")
        evaluated = self.model if self.ema is None else self.ema.module
        found = None
        if stage.evaluated_on_dev:
            if accelerator.num_processes > 1:  # batch norm statistics are those of the main process
                broadcast(list(evaluated.buffers()), from_process=0)
            with accelerator.autocast():
                found = self.evaluate(evaluated)
        result = self.epoch_metrics.gather(accelerator)
        progress.samples = result.digest(progress.samples)
        entry: dict[str, Any] = {"stage": stage.name, "epoch": progress.epoch + 1, "train_loss": result.loss}
        entry |= {"train": None, "dev": None}
        score = None
        if found is not None:
            if not training.mixup:  # predictions of mixed views belong to no single view
                entry["train"] = result.study_metrics(stage.views)
            weights = None if self.targets.weights is None else self.targets.weights.cpu().numpy()
            studies = self.config.data.level == "study"
            entry["dev"] = found.study_metrics()
            entry["dev_loss"] = found.cross_entropy(studies=studies, weights=weights)
            self.schedule.end_epoch(entry["dev_loss"])
            score = selection_score(entry["dev"], training.select_by)
        entry |= {"skipped_steps": progress.skipped, "seconds": self.seconds(), "samples": progress.samples}
        progress.history.append(entry)
        fresh: dict[str, Any] = {}
        best = progress.best
        better = score is not None and (best is None or score > selection_score(best["dev"], training.select_by))
        if better:
            progress.best, fresh[BEST_FILE] = entry, evaluated
        k = training.average_top_k if last else 0
        if k > 1 and score is not None:
            progress.top = with_epoch(progress.top, progress.epoch + 1, score, k)
            if progress.epoch + 1 in progress.top:
                fresh[top_file(progress.epoch + 1)] = evaluated
        progress.next_epoch()
        self.epoch_metrics = EpochMetrics()
        save_state(self, fresh)
        if accelerator.is_main_process:
            print_epoch(entry, kept=better and last)
            write_history(progress.history, self.output_dir)
            self._plot()
            if better and last:
                save_checkpoint(evaluated, self.processor, self._record(), self.output_dir / CHECKPOINT_FOLDER)
        accelerator.log(flatten_entry(entry), step=progress.total)
        stop = self.processes.maximum(self.signals.received)[0]
        if stop:
            raise self._stopped(stop)

    def _stage_is_over(self) -> bool:
        """Whether the stage had all its epochs, or `patience` epochs without improvement."""
        training, progress = self.stage.config.training, self.progress
        if progress.epoch >= training.epochs:
            return True
        waiting = progress.step or progress.best is None or not training.patience
        if waiting or progress.epoch - progress.best["epoch"] < training.patience:  # type: ignore[index]
            return False
        if self.accelerator.is_main_process:
            name = self.stage.name.capitalize()
            tqdm.write(f"{name}: no improvement on dev for {training.patience} epochs, so the stage ends here")
        return True

    def _keep_average(self) -> None:
        """Replaces the checkpoint by the average of the best epochs' weights, and of those before the last stage.

        The record has the figures of the average and of the best epoch.
        """
        assert self.state is not None
        top, best, share = self.progress.top, self.progress.best or {}, self.config.training.start_share
        files = {epoch: self.state / top_file(epoch) for epoch in top} or {best["epoch"]: self.state / BEST_FILE}
        epochs = sorted(files)
        weights = average_weights(files, top or {best["epoch"]: 0.0}, self.initial_weights, share)
        self.model.load_state_dict(weights)
        with self.accelerator.autocast():
            dev = self.evaluate(self.model, save_on_stop=False).study_metrics()
        averaged = {"epochs": epochs, "start_share": share, "dev": dev, "dev_of_best_epoch": best.get("dev")}
        if self.accelerator.is_main_process:
            tqdm.write(
                f"Average of epochs {', '.join(map(str, epochs))}{' and of the weights before' * bool(share)}: dev "
                f"studies AUROC {dev['auroc']:.3f}, that of the best epoch was {best['dev']['auroc']:.3f} (the "
                "average is kept)"
            )
            record = self._record(dev=dev, averaged=averaged)
            save_checkpoint(self.model, self.processor, record, self.output_dir / CHECKPOINT_FOLDER)
        self.accelerator.wait_for_everyone()

    def _record(self, **results: Any) -> dict[str, Any]:
        best = self.progress.best or {}
        found = {name: best.get(name) for name in ("stage", "epoch", "dev")}
        found |= {"seconds": self.seconds(), "samples": self.progress.samples, "resumed": self.progress.resumed}
        return make_record(self.config, self.datasets, self.data_description, self.accelerator, **found | results)

    def restart_clock(self) -> None:
        """Counts seconds from those of the progress."""
        self.started = time.monotonic() - self.progress.seconds
        self.plotted_at = self.saved_at = time.monotonic()

    def seconds(self) -> float:
        """Working time of the run, including earlier processes."""
        return round(time.monotonic() - self.started, 1)

    def _is_save_due(self) -> bool:
        after_steps = self.save_steps is not None and (self.progress.total + 1) % self.save_steps == 0
        return after_steps or time.monotonic() - self.saved_at > self.save_seconds

    def _plot(self, *, now: bool = False) -> None:
        if self.progress.history and (now or time.monotonic() - self.plotted_at > _PLOT_INTERVAL):
            selected_by = self.config.training.select_by
            plot_curves(self.progress.history, self.output_dir / "curves.png", selected_by=selected_by)
            self.plotted_at = time.monotonic()

    def _stopped(self, number: int, *, averaging: bool = False) -> TrainingStopped:
        progress = self.progress
        where = f"{self.stage.name}, epoch {progress.epoch + 1}, step {progress.step} of {self.steps}"
        return TrainingStopped(
            f"stopped by {signal.Signals(number).name} at {'the average of the best epochs' if averaging else where}. "
            f"The state is saved in {self.output_dir / STATES_FOLDER}: give the same command to continue.",
            number,
        )

    def _describe_step(self, loss: torch.Tensor, pace: float) -> str:
        """Text beside the progress bar: loss, figures of the last epoch on dev, and the remaining time."""
        text = f"loss {loss.item():.3f}"
        evaluated = [record["dev"] for record in self.progress.history if record["dev"]]
        if evaluated:
            text += f", dev {describe_metrics(evaluated[-1])}"
        left = max(0, self.planned_steps - self.progress.total)
        return text + f", run ends in {tqdm.format_interval(round(left * pace))}"

    def _check_skipped(self) -> None:
        progress, most = self.progress, self.stage.config.training.max_skipped_steps
        where = f"{self.stage.name}, epoch {progress.epoch + 1}, step {progress.step}"
        if self.accelerator.is_main_process:
            tqdm.write(f"{where}: the loss is not finite, so the step is skipped ({progress.skipped} in this epoch)")
        if progress.skipped > most:
            many = f"{progress.skipped} steps of the epoch, more than max_skipped_steps ({most})"
            raise _not_finite(f"{where}: the losses of {many}, are")


def _derive_seed(*parts: int | str) -> int:
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def _is_finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def _not_finite(what: str) -> TrainingError:
    return TrainingError(
        f"{what} not finite; what was saved before is complete. Lower learning_rate, clip gradients with "
        "max_gradient_norm, or use fp32, in a new folder."
    )


def _open_images(
    datasets: DatasetDict, processor: MuraImageProcessor, cache_dir: str | Path | None, accelerator: Accelerator
) -> PixelCache | None:
    """Opens the pixel cache, if there shall be one, and checks that every image of every split can be read.

    The cache also holds what evaluation reads later: it is then the same for all seeds and folds.
    """
    columns = [rows.cast_column("image", Image(decode=False))["image"] for rows in datasets.values()]
    files = [image["path"] for column in columns for image in column if image["bytes"] is None]
    is_main, cache = accelerator.is_main_process, None
    with accelerator.main_process_first():
        if cache_dir is not None:
            cache = build_pixel_cache(files, processor, cache_dir, progress=is_main)
        if is_main and (cache is None or len(files) < sum(map(len, columns))):
            check_images(datasets, skip=cache or (), progress=is_main)
    return cache
