"""Heads on the pooled code, and attention over views.

From the views of a study to its answer.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

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


_TINY = -30.0  # below it, log(1 + exp(x)) and exp(x) - 1 are exp(x) to the last digit


def pool_views(view_logits: torch.Tensor, mask: torch.Tensor, how: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pools the probabilities of views, computed from logarithms throughout.

    Args:
        view_logits: `[B, V, 2]` for normal and abnormal.
        mask: bool `[B, V]`, False for padding; at least one view each.
        how: "mean", "max" (the view that is likeliest to be abnormal answers) or "noisy_or" (1 - prod(1 - p): one
            abnormal view makes the study abnormal, views being independent).

    Returns:
        The study's log-odds of abnormal `[B]`, and each view's share in them `[B, V]`: equal for the mean, one view's
        for the maximum, and for noisy-or the share in -log(1 - P).
    """
    log_p = view_logits.log_softmax(-1)
    even = mask.to(view_logits.dtype) / mask.sum(1, keepdim=True)
    if how == "mean":
        pooled = torch.logsumexp(log_p + even.log()[..., None], dim=1)
        return pooled[:, 1] - pooled[:, 0], even
    if how == "max":
        margins = (view_logits[..., 1] - view_logits[..., 0]).masked_fill(~mask, -torch.inf)
        best = margins.max(1)
        return best.values, functional.one_hot(best.indices, mask.shape[1]).to(view_logits.dtype)
    if how == "noisy_or":
        # With s = -log(1 - p) of a view and S their sum, the odds are exp(S) - 1. Where a view is surely normal, s
        # rounds to 0, but its logarithm is the view's log-odds.
        margins = view_logits[..., 1] - view_logits[..., 0]
        log_s = torch.where(margins < _TINY, margins, functional.softplus(margins.clamp_min(_TINY)).log())
        log_s = log_s.masked_fill(~mask, -torch.inf)
        log_sum, total = log_s.logsumexp(1), functional.softplus(margins).masked_fill(~mask, 0.0).sum(1)
        total = total.clamp_min(math.exp(_TINY))
        return torch.where(log_sum < _TINY, log_sum, total + torch.log(-torch.expm1(-total))), log_s.softmax(1)
    raise ValueError(f"views cannot be pooled by {how!r}; there are mean, max and noisy_or")


def attend(scores: torch.Tensor, codes: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the views' codes, weighted by attention.

    Args:
        scores: `[B, V]`.
        codes: `[B, V, D]`.
        mask: bool `[B, V]`.

    Returns:
        The study's code `[B, D]`, and the weights `[B, V]`, a softmax of the scores over the true views.
    """
    weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
    return (weights[..., None] * codes).sum(1), weights


def place_views(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values of the true views `[n, ...]` at their places `[B, V, ...]`, zeros elsewhere."""
    placed = values.new_zeros((*mask.shape, *values.shape[1:]))
    placed[mask] = values
    return placed


def check_view_mask(pixel_values: torch.Tensor, view_mask: torch.Tensor | None) -> torch.Tensor:
    """The mask of studies `[B, V, C, H, W]` as bool `[B, V]`; all True where None.

    Raises:
        ValueError: If a study has no view, or the shapes do not belong together.
    """
    if pixel_values.ndim != 5:
        raise ValueError(
            f"pixel_values must be [studies, views, channels, height, width], not {list(pixel_values.shape)}"
        )
    studies, views = pixel_values.shape[:2]
    if view_mask is None:
        view_mask = torch.ones(studies, views, dtype=torch.bool, device=pixel_values.device)
    mask = view_mask.to(torch.bool)
    if mask.shape != (studies, views) or not bool(mask.any(1).all()):
        raise ValueError("view_mask must be [studies, views] with at least one view in each study")
    return mask


__all__ = [
    "GatedAttention",
    "MuraHead",
    "MuraHeadNorm",
    "attend",
    "check_view_mask",
    "make_head",
    "place_views",
    "pool_views",
]
