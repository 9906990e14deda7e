"""Optimizer, learning rate, parameter groups, and averages of weights."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from ..errors import ConfigError
from ..models import MuraModel
from ..models.backbone_mura import SmallCnn
from .arguments import TrainingConfig

_IMPROVEMENT = 1e-4
"""Relative decrease of the dev loss that counts as an improvement, as in torch's `ReduceLROnPlateau`."""

_HEAD = ""
"""Name of the stand-in head. timm's patterns match no empty name, so it becomes the last layer."""


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a config over all trained parameters, in the groups of `parameter_groups`.

    With "adam" and "sgd" weight decay is torch's L2 term, with "adamw" it is decoupled.
    """
    training, rate = config.training, config.training.learning_rate
    groups = parameter_groups(
        model, learning_rate=rate, weight_decay=training.weight_decay, layer_decay=training.layer_decay
    )
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=training.momentum)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[training.optimizer](groups, lr=rate)


class LearningRateSchedule:
    """The learning rate of a stage: linear warmup over `warmup_fraction` of the steps, then `schedule`."""

    def __init__(self, optimizer: torch.optim.Optimizer, config: TrainingConfig, steps_per_epoch: int) -> None:
        self.training, self.steps_per_epoch = config.training, steps_per_epoch
        self.factor, self.lowest, self.waited = 1.0, float("inf"), 0
        steps = steps_per_epoch * self.training.epochs
        self.warmup = round(self.training.warmup_fraction * steps)
        self.inner = (
            get_cosine_schedule_with_warmup(optimizer, self.warmup, steps)
            if self.training.schedule == "cosine"
            else LambdaLR(optimizer, self._share)
        )

    def step(self) -> None:
        """Call after each step of the optimizer."""
        self.inner.step()

    def end_epoch(self, dev_loss: float) -> None:
        """Call after each evaluation on dev: "plateau" lowers the rate when the dev loss no longer falls."""
        if self.training.schedule != "plateau":
            return
        if dev_loss < self.lowest * (1 - _IMPROVEMENT):
            self.lowest, self.waited = dev_loss, 0
            return
        self.waited += 1
        if self.waited > self.training.plateau_patience:
            self.factor, self.waited = self.factor * self.training.plateau_factor, 0
            for group, peak in zip(self.inner.optimizer.param_groups, self.inner.base_lrs, strict=True):
                group["lr"] = peak * self._share(self.inner.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """State of the schedule."""
        state = {"factor": self.factor, "lowest": self.lowest, "waited": self.waited}
        return {**state, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state of `state_dict`."""
        self.factor, self.lowest, self.waited = state["factor"], state["lowest"], state["waited"]
        self.inner.load_state_dict(state["inner"])

    def _share(self, step: int) -> float:
        if step < self.warmup:
            return step / self.warmup
        if self.training.schedule == "step":
            return self.training.gamma ** (step // self.steps_per_epoch // self.training.step_epochs)
        return self.factor


class _WithHead:
    """A backbone as timm's grouping sees it: with a head behind it, which counts as one more layer."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone: Any = backbone
        self.head = nn.Parameter(requires_grad=False)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.backbone.named_parameters()
        yield _HEAD, self.head

    def group_matcher(self, coarse: bool = False) -> Any:
        """That of the backbone; the small networks of this package are grouped by stages."""
        return self.backbone.group_matcher(coarse=coarse or isinstance(self.backbone, SmallCnn))


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: matrices and kernels have weight decay, biases and norms have none.

    With `layer_decay` below 1, a layer has the rate `learning_rate * layer_decay ** d`, where d is its distance to the
    end: 0 for the heads (and for what timm assigns to them, such as ConvNeXt's last norm), 1 for the last block, most
    for the stem. Layers are those of timm's `group_matcher`, as in `timm.optim.param_groups_layer_decay`: a block of
    ConvNeXt (with the downsampling before it), ResNet or a vision transformer, a dense layer of DenseNet, a stage of
    our small networks. Each backbone of a model is counted on its own.

    Args:
        model: Model; with `layer_decay` below 1, its backbones are the `MuraModel`s in it.
        learning_rate: Learning rate of the heads.
        weight_decay: Weight decay of matrices and kernels.
        layer_decay: In (0, 1]; 1 is one rate for all layers.

    Returns:
        Dicts with `params`, `lr` and `weight_decay`; with `layer_decay` 1 two of them: with and without weight decay.

    Raises:
        ValueError: If no parameter is trained.
        ConfigError: If the layers of a backbone are not known.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter of the model is trained; raise train_last, or choose another stage")
    if layer_decay == 1:
        return _plain_groups(trained, learning_rate, weight_decay)
    groups = [
        {"params": group["params"], "lr": learning_rate * group["lr_scale"], "weight_decay": group["weight_decay"]}
        for inner in model.modules()
        if isinstance(inner, MuraModel)
        for group in _layer_groups(inner, weight_decay, layer_decay)
    ]
    placed = {id(parameter) for group in groups for parameter in group["params"]}
    rest = [parameter for parameter in trained if id(parameter) not in placed]
    return [*groups, *(group for group in _plain_groups(rest, learning_rate, weight_decay) if group["params"])]


def _plain_groups(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [{"params": [], "lr": rate, "weight_decay": one} for one in (weight_decay, 0.0)]
    for parameter in parameters:
        groups[parameter.ndim <= 1]["params"].append(parameter)
    return groups


def _layer_groups(inner: MuraModel, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """timm's groups of a backbone."""
    with_head: Any = _WithHead(inner.backbone)
    try:
        return param_groups_layer_decay(with_head, weight_decay=weight_decay, layer_decay=layer_decay)
    except (AttributeError, AssertionError, KeyError, NotImplementedError) as error:
        raise ConfigError(
            f"layer_decay: the layers of backbone {inner.config.backbone} are not known; set it to 1, or choose a "
            "backbone such as convnext_tiny, resnet50, densenet169 or vit_small_patch16_224"
        ) from error


def with_epoch(top: Mapping[int, float], epoch: int, score: float, k: int) -> dict[int, float]:
    """The k best of the epochs so far (epoch -> score) and a new one; of two equal ones the earlier stays."""
    found = {**top, epoch: score}
    if len(found) > k:
        del found[min(found, key=lambda one: (found[one], -one))]
    return found


def average_weights(
    files: Mapping[int, Path],
    scores: Mapping[int, float],
    start: Mapping[str, torch.Tensor] | None = None,
    share: float = 0.0,
) -> dict[str, torch.Tensor]:
    """Mean of the weights of several epochs, with batch norm statistics; integers are those of the best epoch.

    Izmailov et al., "Averaging weights leads to wider optima and better generalization", arXiv 1803.05407, average
    along the way; here dev selects the epochs, as in a soup of one run (Wortsman et al., arXiv 2203.05482). Weights
    from before these epochs make the result more robust (Wortsman et al., arXiv 2109.01903).

    Args:
        files: Epoch -> safetensors file of its weights.
        scores: Epoch -> score.
        start: Weights from before these epochs.
        share: Share of `start` in the result.
    """
    best = max(scores, key=lambda one: (scores[one], -one))
    mean = load_file(files[best])
    summed = {name: value.double() for name, value in mean.items() if value.is_floating_point()}
    for epoch in scores:
        if epoch != best:
            for name, value in load_file(files[epoch]).items():
                if name in summed:
                    summed[name] += value
    for name, value in summed.items():
        average = value / len(scores)
        mean[name] = (average if start is None else average.lerp(start[name].double(), share)).to(mean[name].dtype)
    return mean
