"""What a run works with."""

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import DatasetDict
from timm.utils import ModelEmaV3
from torch import nn
from tqdm.auto import tqdm

from ..data import ViewDataset
from ..errors import TrainingStopped
from ..models import MuraImageProcessor
from .agreement import Agreement
from .curves import plot_curves
from .keeping import STATES_FOLDER, make_record
from .objective import Truth
from .optimizing import RateSchedule
from .progress import Progress, Tally
from .recipe import Recipe
from .selecting import told_of_metrics
from .signals import StopSignals
from .stages import Stage

_DRAWN_EVERY = 60.0


@dataclass
class Run:
    """All that a run works with, and how far it is.

    Attributes:
        recipe: Every setting.
        datasets: All splits.
        data_description: What they are.
        output_dir: Where it writes.
        accelerator: Of all processes.
        agreement: Between them.
        processor: Of the model.
        model: What is trained, bare.
        dev_views: The split that judges.
        truth: Of train.
        metric: Loss on embeddings, or None.
        num_workers: Processes that read files.
        save_seconds: The state is kept at least that often.
        save_steps: And after every so many steps, where not None.
        planned_steps: Of the whole run, about.
        signals: That ask it to stop.
        progress: How far it is.
        state: Folder of the newest state; None before there is one.
        taken_up: Whether the state is still to be loaded.
    """

    recipe: Recipe
    datasets: DatasetDict
    data_description: dict[str, Any]
    output_dir: Path
    accelerator: Accelerator
    agreement: Agreement
    processor: MuraImageProcessor
    model: Any
    dev_views: ViewDataset
    truth: Truth
    metric: Any | None
    num_workers: int = 0
    save_seconds: float = 600.0
    save_steps: int | None = None
    planned_steps: int = 0
    signals: StopSignals = field(default_factory=StopSignals)
    progress: Progress = field(default_factory=Progress)
    state: Path | None = None
    taken_up: bool = False

    def __post_init__(self) -> None:
        self.restart_clock()

    def restart_clock(self) -> None:
        """Counts the seconds on from those of the progress."""
        self.started = time.monotonic() - self.progress.seconds
        self.drawn_at = self.kept_at = time.monotonic()

    def seconds(self) -> float:
        """That the run has worked, in this go and those before."""
        return round(time.monotonic() - self.started, 1)

    def is_due(self) -> bool:
        """Whether the state is to be kept again."""
        after = self.save_steps is not None and (self.progress.total + 1) % self.save_steps == 0
        return after or time.monotonic() - self.kept_at > self.save_seconds

    def draw(self, *, now: bool = False) -> None:
        """Draws curves.png, at most once a minute: short epochs are not to wait for a plot."""
        if self.progress.history and (now or time.monotonic() - self.drawn_at > _DRAWN_EVERY):
            plot_curves(self.progress.history, self.output_dir / "curves.png", selected_by=self.recipe.select_by)
            self.drawn_at = time.monotonic()

    def stopped(self, going: "StageRun | None", number: int) -> TrainingStopped:
        """The error that ends a run which was told to stop, in a stage or after all of them."""
        where = "the average of the best epochs"
        if going is not None:
            where = f"{going.stage.name}, epoch {self.progress.epoch + 1}, step {self.progress.step} of {going.steps}"
        return TrainingStopped(
            f"stopped by {signal.Signals(number).name} at {where}. The state is kept in "
            f"{self.output_dir / STATES_FOLDER}: give the same command, and the run goes on there.",
            number,
        )

    def told(self, loss: torch.Tensor, pace: float) -> str:
        """What stands beside a progress bar: loss, how the last epoch did on dev, and when the run will end."""
        told = f"loss {loss.item():.3f}"
        judged = [record["dev"] for record in self.progress.history if record["dev"]]
        if judged:
            told += f", dev {told_of_metrics(judged[-1])}"
        left = max(0, self.planned_steps - self.progress.total)
        return told + f", run ends in {tqdm.format_interval(round(left * pace))}"

    def record(self, **further: Any) -> dict[str, Any]:
        """What `training.json` holds of the epoch that is kept."""
        best = self.progress.best or {}
        how = {name: best.get(name) for name in ("stage", "epoch", "dev")}
        how |= {"seconds": self.seconds(), "samples": self.progress.samples, "resumed": self.progress.resumed}
        return make_record(self.recipe, self.datasets, self.data_description, self.accelerator, **how | further)


@dataclass
class StageRun:
    """What a stage works with.

    Attributes:
        stage: What to do.
        model: Prepared.
        optimizer: Prepared.
        schedule: Of its rate.
        loader: Prepared.
        steps: Of an epoch.
        first_step: Of the run, with which the stage began.
        averaged: A moving average of the model, which is judged in its place; None without one.
        guard: Of the statistics of batch norms.
        tally: What the epoch at hand has met.
    """

    stage: Stage
    model: Any
    optimizer: Any
    schedule: RateSchedule
    loader: Any
    steps: int
    first_step: int
    averaged: ModelEmaV3 | None
    guard: "BufferGuard"
    tally: Tally = field(default_factory=Tally)


class BufferGuard:
    """Keeps the statistics of batch norms from a step that is left out: the forward pass has moved them already.

    Args:
        model: Whose buffers it guards.
    """

    def __init__(self, model: nn.Module) -> None:
        self.buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.noted = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def note(self) -> None:
        """Before a step."""
        if self.buffers:
            torch._foreach_copy_(self.noted, self.buffers)

    @torch.no_grad()
    def restore(self) -> None:
        """After a step that is left out."""
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.noted)
