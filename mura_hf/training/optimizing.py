"""Optimisers and their rates."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from .parameter_groups import parameter_groups
from .recipe import Recipe

_BETTER = 1e-4
"""By what share a loss on dev must fall to count as better, as in torch's `ReduceLROnPlateau`."""


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe over what is trained, in groups of `parameter_groups`.

    It decays matrices and kernels, but neither biases nor norms. With "adam" the decay is torch's, an L2 term that
    goes through the moments; with "adamw" it is decoupled; with "sgd" an L2 term.

    Raises:
        ValueError: If nothing is trained.
        ConfigError: If rates are to fall by layers that the backbone does not tell apart.
    """
    groups = parameter_groups(
        model,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
    )
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer]
    return kind(groups, lr=recipe.learning_rate)


class RateSchedule:
    """The rate of a stage: up to its peak over `warmup_fraction` of the steps, then as `schedule` of the recipe says.

    Args:
        optimizer: Whose rate it sets.
        recipe: As it holds in the stage.
        steps_per_epoch: Steps of an epoch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> None:
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.factor = 1.0
        self.lowest = float("inf")
        self.waited = 0
        steps = steps_per_epoch * recipe.epochs
        self.warmup = round(recipe.warmup_fraction * steps)
        self.inner = (
            get_cosine_schedule_with_warmup(optimizer, self.warmup, steps)
            if recipe.schedule == "cosine"
            else LambdaLR(optimizer, self._share)
        )

    def step(self) -> None:
        """After each step of the optimiser."""
        self.inner.step()

    def end_epoch(self, dev_loss: float) -> None:
        """After each judged epoch: "plateau" lowers the rate where the loss on dev no longer falls."""
        if self.recipe.schedule != "plateau":
            return
        if dev_loss < self.lowest * (1 - _BETTER):
            self.lowest, self.waited = dev_loss, 0
            return
        self.waited += 1
        if self.waited > self.recipe.plateau_patience:
            self.factor, self.waited = self.factor * self.recipe.plateau_factor, 0
            for group, peak in zip(self.inner.optimizer.param_groups, self.inner.base_lrs, strict=True):
                group["lr"] = peak * self._share(self.inner.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is."""
        kept = {"factor": self.factor, "lowest": self.lowest, "waited": self.waited}
        return {**kept, "inner": self.inner.state_dict()}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Puts it where `state_dict` was taken."""
        self.factor, self.lowest, self.waited = kept["factor"], kept["lowest"], kept["waited"]
        self.inner.load_state_dict(kept["inner"])

    def _share(self, step: int) -> float:
        """Of the peak, at a step."""
        if step < self.warmup:
            return step / self.warmup
        if self.recipe.schedule == "step":
            return self.recipe.gamma ** (step // self.steps_per_epoch // self.recipe.step_epochs)
        return self.factor
