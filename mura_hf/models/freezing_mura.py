"""Training a backbone in part: all of it, none, or its last stages."""

from typing import Any

import torch
from torch import nn

from .errors_mura import CheckpointError

_WAYS_OUT = (
    "use train_last 0 (all frozen) or None (everything trains), or a backbone with stages, such as densenet169, "
    "resnet50 or convnext_tiny"
)


def backbone_stages(backbone: nn.Module) -> list[list[str]]:
    """Names of a backbone's parameters, stage by stage, as timm's `group_matcher(coarse=True)` tells them apart.

    A stage is what timm holds to be one: a dense block with the transition behind it, a layer of a ResNet, a block of
    a vision transformer.

    Args:
        backbone: From `create_backbone`.

    Returns:
        Stem first (empty where there is none), then the stages. What no pattern matches belongs to the stem if it is
        registered before the stages (a position code that all blocks share), else to the last stage (the last norm of
        a DenseNet or Swin). Each parameter is there once.

    Raises:
        CheckpointError: If the backbone does not tell its stages apart.
    """
    from timm.models._manipulate import group_with_matcher

    unmatched = ""  # no parameter has this name, and no pattern matches it
    names = [name for name, _ in backbone.named_parameters()]
    try:
        matcher: Any = backbone.group_matcher(coarse=True)  # type: ignore[operator]
        groups = list(group_with_matcher(((name, None) for name in [*names, unmatched]), matcher).values())
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise CheckpointError(f"{_name(backbone)} does not tell its stages apart; {_WAYS_OUT}") from error
    rest = [name for group in groups if unmatched in group for name in group if name != unmatched]
    stages = [group for group in groups if unmatched not in group]
    if isinstance(matcher, dict) and matcher.get("stem", "") is None:
        stages.insert(0, [])
    if len(stages) < 2:
        raise CheckpointError(f"{_name(backbone)} is one piece, without stages; {_WAYS_OUT}")
    place = {name: index for index, name in enumerate(names)}
    start = min(place[name] for name in stages[1])
    stages[0] = stages[0] + [name for name in rest if place[name] < start]
    stages[-1] = stages[-1] + [name for name in rest if place[name] > start]
    return stages


def freeze_backbone(backbone: nn.Module, train_last: int | None) -> None:
    """Chooses which parameters of a backbone are trained, by their `requires_grad`.

    Dropout of frozen stages stays as it is; for batch norms see `keep_frozen_norms_still`.

    Args:
        backbone: From `create_backbone`.
        train_last: None trains everything, 0 nothing, k the last k stages with what follows them.

    Raises:
        CheckpointError: If the backbone has fewer stages or does not tell them apart, or the number is negative. Then
            nothing is changed.
    """
    if train_last is not None and train_last < 0:
        raise CheckpointError(
            f"train_last is {train_last}: give None (everything trains), 0 (all frozen) or a number of stages"
        )
    if not train_last:
        backbone.requires_grad_(train_last is None)
        return
    _, *stages = backbone_stages(backbone)
    if train_last > len(stages):
        raise CheckpointError(
            f"train_last is {train_last}, but {_name(backbone)} has {len(stages)} stages; give at most that many, 0 "
            "(all frozen) or None (everything trains, the stem too)"
        )
    trained = {name for stage in stages[-train_last:] for name in stage}
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in trained)


def keep_frozen_norms_still(module: nn.Module) -> None:
    """Puts each norm with running statistics whose parameters are all frozen into evaluation mode.

    `module.train()` undoes it, so call it after each. Norms without parameters stay as they are.
    """
    for norm in module.modules():
        if isinstance(getattr(norm, "running_var", None), torch.Tensor):
            frozen = [not parameter.requires_grad for parameter in norm.parameters()]
            if frozen and all(frozen):
                norm.eval()


def _name(backbone: nn.Module) -> str:
    told: Any = getattr(backbone, "pretrained_cfg", None) or {}
    return told.get("architecture") or type(backbone).__name__


__all__ = ["backbone_stages", "freeze_backbone", "keep_frozen_norms_still"]
