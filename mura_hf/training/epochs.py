"""One pass over train."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import skip_first_batches
from torch import nn
from tqdm.auto import tqdm

from ..errors import TrainingError
from .mixing import mix_batch
from .objective import answer, batch_loss
from .run import Run, StageRun
from .snapshot import save_state

_SHOWN_EVERY = 10


def train_epoch(run: Run, going: StageRun, title: str) -> None:
    """Trains to the end of the epoch from where the run is in it, which moves on.

    All that is random in a step is drawn from the recipe's seed, the step's number and the process, so that a run that
    was taken up makes the very steps that it would have made.

    Args:
        run: The run.
        going: The stage at hand.
        title: Of the progress bar.

    Raises:
        TrainingStopped: If the run was told to stop; its state is kept.
        TrainingError: If more steps than the recipe allows had no finite loss, or the state cannot be written.
    """
    first = run.progress.step
    if first >= going.steps:
        return
    going.model.train()
    done = first * going.stage.recipe.accumulation
    iterator = iter(skip_first_batches(going.loader, done) if done else going.loader)
    began, quiet = time.monotonic(), not run.accelerator.is_main_process
    with tqdm(total=going.steps, initial=first, desc=title, unit="step", disable=quiet, leave=False) as bar:
        for step in range(first, going.steps):
            made = train_step(run, going, iterator, step)
            if made.lost:
                _check_skipped(run, going)
            broken = made.lost and is_broken(run.model)
            if broken and made.stop:
                raise no_number("told to stop, but the weights are")
            if (made.due or made.stop) and not broken:
                save_state(run, going)
            if made.stop:
                raise run.stopped(going, made.stop)
            bar.update()
            if (step + 1) % _SHOWN_EVERY == 0:
                pace = (time.monotonic() - began) / (step + 1 - first)
                bar.set_postfix_str(run.told(made.loss, pace), refresh=False)


@dataclass(frozen=True)
class MadeStep:
    """What a step was, the same on all processes but for the loss.

    Attributes:
        loss: Of this process, a scalar.
        lost: Whether the step was left out, since a loss or a gradient was not finite.
        stop: The number of a signal that asks to stop; 0 without one.
        due: Whether the state is to be kept now.
    """

    loss: torch.Tensor
    lost: bool
    stop: int
    due: bool


def train_step(run: Run, going: StageRun, iterator: Iterator[dict[str, torch.Tensor]], step: int) -> MadeStep:
    """A step of the optimiser, over `accumulation` batches.

    Where a loss or a gradient is not finite, on whichever process, weights, averages and statistics of batch norms
    stay as they are.

    Args:
        run: Is moved on by a step.
        going: The stage at hand.
        iterator: Over its loader, from the step's first batch on.
        step: Its number in the epoch.
    """
    recipe, progress, accelerator = going.stage.recipe, run.progress, run.accelerator
    wanted = int(run.is_due())
    group = min(recipe.accumulation, len(going.loader) - step * recipe.accumulation)
    going.guard.note()
    loss, met = _accumulate(run, going, iterator, group)
    norm = accelerator.clip_grad_norm_(going.model.parameters(), recipe.max_gradient_norm or float("inf"))
    scaled = accelerator.scaler is not None
    finite = torch.isfinite(loss) if scaled else torch.isfinite(loss) & torch.isfinite(norm)
    lost, stop, due = run.agreement.largest(int(not finite), run.signals.received, wanted)
    if not lost or scaled:  # a scaler leaves the step out by itself, and lowers its scale
        going.optimizer.step()
    if accelerator.scaler is not None and going.optimizer.step_was_skipped:
        lost = lost or int(accelerator.scaler.get_scale() < 1)  # no scale makes these gradients finite
    going.schedule.step()
    going.optimizer.zero_grad()
    progress.step, progress.total = step + 1, progress.total + 1
    if lost:
        going.guard.restore()
        progress.skipped += 1
    else:
        if going.averaged is not None:
            going.averaged.update(run.model, step=progress.total - going.first_step)
        for rows, logits in met:
            going.tally.add(rows, logits)
        going.tally.add_loss(loss)
    return MadeStep(loss, bool(lost), stop, bool(due))


def _accumulate(
    run: Run, going: StageRun, iterator: Any, group: int
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Gradients of a step over a group of batches; its mean loss, and rows and logits of each."""
    recipe, accelerator = going.stage.recipe, run.accelerator
    total, met = torch.zeros((), device=accelerator.device), []
    for number in range(group):
        batch = next(iterator)  # draws random numbers where it starts
        place = (run.progress.total, number, accelerator.process_index)
        torch.manual_seed(_seed(recipe.seed, *place))
        batch = mix_batch(batch, recipe, place)
        if number + 1 < group:
            with accelerator.no_sync(going.model):
                output, loss = _step(run, going, batch, group)
        else:
            output, loss = _step(run, going, batch, group)
        total += loss.detach() / group
        met.append((batch["index"], answer(output).detach()))
    return total, met


def _step(run: Run, going: StageRun, batch: dict[str, torch.Tensor], group: int) -> tuple[Any, torch.Tensor]:
    """Forward and backward of a batch; its output and its loss."""
    output = going.model(**_inputs(batch, going.stage.recipe.channels_last))
    loss = batch_loss(
        output,
        batch,
        going.stage.recipe,
        run.truth,
        trains=going.stage.trains,
        metric=run.metric,
        accelerator=run.accelerator,
        model=run.model,
    )
    run.accelerator.backward(loss / group)
    return output, loss


def _inputs(batch: dict[str, torch.Tensor], channels_last: bool) -> dict[str, torch.Tensor]:
    """What the model is given of a batch of views, or of studies."""
    if "view_mask" in batch:
        return {"pixel_values": batch["pixel_values"], "view_mask": batch["view_mask"]}
    pixels = batch["pixel_values"]
    return {"pixel_values": pixels.contiguous(memory_format=torch.channels_last) if channels_last else pixels}


def _seed(*what: int) -> int:
    """Of the random numbers of a seed, step, batch and process: 63 bits."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, what)).encode()).digest()[:8], "big") >> 1


def is_broken(model: nn.Module) -> bool:
    """Whether a weight is not finite."""
    return not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def no_number(what: str) -> TrainingError:
    """The error that ends a run whose weights, or whose answers, are not finite."""
    return TrainingError(
        f"{what} no numbers; what was kept before is whole. Lower learning_rate, clip gradients with "
        "max_gradient_norm, or use fp32, in a new folder."
    )


def _check_skipped(run: Run, going: StageRun) -> None:
    recipe, progress = going.stage.recipe, run.progress
    where = f"{going.stage.name}, epoch {progress.epoch + 1}, step {progress.step}"
    if run.accelerator.is_main_process:
        tqdm.write(f"{where}: the loss is not finite, so the step is left out ({progress.skipped} of this epoch)")
    if progress.skipped > recipe.max_skipped_steps:
        raise TrainingError(
            f"{where}: the loss was not finite in {progress.skipped} steps of the epoch, more than max_skipped_steps "
            f"({recipe.max_skipped_steps}) allows. What was kept before is whole. Lower learning_rate, clip "
            "gradients with max_gradient_norm, or use fp32, in a new folder."
        )
