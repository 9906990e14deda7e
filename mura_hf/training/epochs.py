"""One pass over train."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from ..data import HardSampler
from .mixing import mix_batch
from .objective import Truth, batch_loss, row_losses
from .optimizing import RateSchedule
from .stages import Stage


def train_epoch(
    model: nn.Module,
    loader: Any,
    optimizer: Any,
    schedule: RateSchedule,
    accelerator: Accelerator,
    stage: Stage,
    truth: Truth,
    metric: Any | None,
    title: str,
    after_step: Callable[[], None] | None = None,
) -> float:
    """One pass over train; tells a sampler of hard rows what they cost.

    Args:
        model: Prepared.
        loader: Of the stage, prepared.
        optimizer: Prepared.
        schedule: Of its rate.
        accelerator: Of the run.
        stage: Where the run is.
        truth: Of train.
        metric: Loss on embeddings, or None.
        title: Of the progress bar.
        after_step: Called after each step.

    Returns:
        The mean loss over steps and processes.

    Raises:
        RuntimeError: If the loss is not finite.
    """
    model.train()
    recipe, bare = stage.recipe, accelerator.unwrap_model(model)
    total = torch.zeros((), device=accelerator.device)
    costs: list[tuple[torch.Tensor, torch.Tensor]] = []
    bar = tqdm(loader, desc=title, unit="step", disable=not accelerator.is_main_process, leave=False)
    for step, batch in enumerate(bar):
        batch = mix_batch(batch, recipe, (stage.first_epoch, schedule.inner.last_epoch, accelerator.process_index))
        output = model(**_inputs(batch))
        loss = batch_loss(
            output,
            batch,
            recipe,
            truth,
            trains=stage.trains,
            metric=metric,
            accelerator=accelerator,
            model=bare,
        )
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"the loss became {loss.item()} in step {step} of {title}; lower learning_rate or use fp32"
            )
        accelerator.backward(loss)
        if recipe.max_gradient_norm:
            accelerator.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if after_step is not None:
            after_step()
        if isinstance(stage.sampler, HardSampler):
            costs.append((batch["index"], row_losses(output, batch["labels"])))
        total += loss.detach()
        if step % 10 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    if isinstance(stage.sampler, HardSampler):
        rows, losses = (accelerator.gather(torch.cat(values)) for values in zip(*costs, strict=True))
        stage.sampler.set_losses(rows.cpu().numpy(), losses.cpu().numpy().astype(np.float64))
    return float(accelerator.reduce(total, "mean")) / len(loader)


def _inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the model is given of a batch of views, or of studies."""
    if "view_mask" in batch:
        return {"pixel_values": batch["pixel_values"], "view_mask": batch["view_mask"]}
    return {"pixel_values": batch["pixel_values"].contiguous(memory_format=torch.channels_last)}
