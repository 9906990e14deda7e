"""Losses, one per file, and the losses on embeddings by name, as a training config gives them.

`mura_hf/training/README.md` says how to add one.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from ..common import did_you_mean
from ..errors import ConfigError
from .batch_hard_triplet import batch_hard_triplet_loss
from .region_loss import region_loss
from .selectively_contrastive_triplet import selectively_contrastive_triplet_loss
from .semi_hard_triplet import semi_hard_triplet_loss
from .triplet_focal import triplet_focal_loss
from .triplet_margin import triplet_margin_loss
from .weighted_cross_entropy import class_weights, weighted_cross_entropy

__all__ = [
    "METRIC_LOSSES",
    "MetricLoss",
    "batch_hard_triplet_loss",
    "build_metric_loss",
    "class_weights",
    "region_loss",
    "selectively_contrastive_triplet_loss",
    "semi_hard_triplet_loss",
    "triplet_focal_loss",
    "triplet_margin_loss",
    "weighted_cross_entropy",
]

MetricLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

METRIC_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "triplet_margin": triplet_margin_loss,
    "semi_hard_triplet": semi_hard_triplet_loss,
    "batch_hard_triplet": batch_hard_triplet_loss,
    "triplet_focal": triplet_focal_loss,
    "selectively_contrastive_triplet": selectively_contrastive_triplet_loss,
}


def build_metric_loss(name: str, options: Mapping[str, Any]) -> MetricLoss:
    """Builds a loss of embeddings `[B, E]` and labels int64 `[B]`, such as "triplet_margin" with `{"margin": 0.5}`.

    Raises:
        ConfigError: If the name or an option is unknown, or a value has the wrong type or range.
    """
    if name not in METRIC_LOSSES:
        known = did_you_mean(name, METRIC_LOSSES) or f"; choose one of {', '.join(METRIC_LOSSES)}"
        raise ConfigError(f"metric loss: unknown name {name!r}{known}")
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(METRIC_LOSSES[name]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    for key, value in options.items():
        if key not in defaults:
            known = did_you_mean(key, defaults) or f"; choose one of {', '.join(defaults)}"
            raise ConfigError(f"metric loss {name}: unknown option {key!r}{known}")
        kind = type(defaults[key])
        if type(value) not in ((int, float) if kind is float else (kind,)):
            names = {float: "a number", int: "an integer", bool: "true or false", str: "a word"}
            expected = names.get(kind, f"a {kind.__name__}")
            raise ConfigError(f"metric loss {name}: {key} is {value!r}, but must be {expected}")
    loss = partial(METRIC_LOSSES[name], **options)
    try:  # on a dummy batch, so that a value out of range stops the training before it starts
        loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    except ValueError as error:
        raise ConfigError(f"metric loss {name}: {error}") from error
    return loss
