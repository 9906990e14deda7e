"""Heads on the pooled code, and attention over views."""

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from .configuration_mura import MuraConfig

_INITS: dict[str, Any] = {
    "small": lambda weight: nn.init.trunc_normal_(weight, std=0.02),
    "he": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "xavier": lambda weight: nn.init.xavier_uniform_(weight),
    "random": lambda weight: nn.init.normal_(weight, std=0.05),
}


class MuraHead(nn.Linear):
    """A linear layer of a head, which starts as the config says (`head_init`)."""

    def __init__(self, in_features: int, out_features: int, init: str = "small") -> None:
        super().__init__(in_features, out_features)
        self.init = init

    def start(self) -> None:
        """Fills the layer as the config says."""
        _INITS[self.init](self.weight)
        nn.init.zeros_(self.bias)


class MuraHeadNorm(nn.BatchNorm1d):
    """Batch normalisation inside a head."""

    def start(self) -> None:
        """Fills the layer as new."""
        self.reset_parameters()


def make_head(in_features: int, out_features: int, config: MuraConfig) -> nn.Module:
    """The layers of a config's head behind its first dropout: one linear layer, or several with what lies between."""
    widths, rates = [in_features, *(config.head_layers or []), out_features], config.head_dropouts
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), 1):
        layers.append(MuraHead(before, after, config.head_init))
        if number < len(widths) - 1:
            if config.head_batch_norm:
                layers.append(MuraHeadNorm(after))
            if config.head_activation == "relu":
                layers.append(nn.ReLU())
            layers.append(nn.Dropout(rates[number]))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


class GatedAttention(nn.Module):
    """Scores views by their codes: w^T (tanh(V h) * sigmoid(U h)).

    Source: Ilse, Tomczak and Welling, "Attention-based deep multiple instance learning", arXiv 1802.04712, equation 9.
    """

    def __init__(self, in_features: int, size: int) -> None:
        super().__init__()
        self.value = MuraHead(in_features, size, "xavier")
        self.gate = MuraHead(in_features, size, "xavier")
        self.score = MuraHead(size, 1, "xavier")

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Scores `[...]` of codes `[..., D]`."""
        return self.score(torch.tanh(self.value(codes)) * torch.sigmoid(self.gate(codes)))[..., 0]


__all__ = ["GatedAttention", "MuraHead", "MuraHeadNorm", "make_head"]
