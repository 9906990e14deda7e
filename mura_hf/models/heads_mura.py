"""Heads on the pooled code, and pooling of the views of a study."""

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
    """A linear layer of a head, initialized as `head_init` of the configuration says."""

    def __init__(self, in_features: int, out_features: int, init: str = "small") -> None:
        super().__init__(in_features, out_features)
        self.init = init

    def initialize(self) -> None:
        """Draws new weights and sets the bias to 0."""
        _INITS[self.init](self.weight)
        nn.init.zeros_(self.bias)


class MuraHeadNorm(nn.BatchNorm1d):
    """Batch normalization inside a head."""

    def initialize(self) -> None:
        """Resets weights and running statistics."""
        self.reset_parameters()


def make_head(in_features: int, out_features: int, config: MuraConfig) -> nn.Module:
    """Builds the head of a configuration after its first dropout: one linear layer, or a sequence of layers."""
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
    """Attention scores of pooled codes: w^T (tanh(V h) * sigmoid(U h)).

    Source: Ilse, Tomczak and Welling, "Attention-based deep multiple instance learning", arXiv 1802.04712, equation 9.
    """

    def __init__(self, in_features: int, size: int) -> None:
        super().__init__()
        self.value = MuraHead(in_features, size, "xavier")
        self.gate = MuraHead(in_features, size, "xavier")
        self.score = MuraHead(size, 1, "xavier")

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns scores `[...]` of codes `[..., D]`."""
        return self.score(torch.tanh(self.value(codes)) * torch.sigmoid(self.gate(codes)))[..., 0]


def make_attention(in_features: int, config: MuraConfig) -> GatedAttention | None:
    """Builds the attention over views if the configuration asks for it."""
    return GatedAttention(in_features, config.attention_size) if config.study_pooling == "gated_attention" else None


_TINY = -30.0  # below it, log(1 + exp(x)) and exp(x) - 1 equal exp(x) to the last digit


def pool_views(view_logits: torch.Tensor, mask: torch.Tensor, how: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pools the probabilities of views, computed in log space throughout.

    Args:
        view_logits: `[B, V, 2]` for normal and abnormal.
        mask: bool `[B, V]`, False for padding; at least one view per study.
        how: "mean", "max" (the most abnormal view decides) or "noisy_or" (1 - prod(1 - p): a study is abnormal if at
            least one of its independent views is).

    Returns:
        Log-odds of abnormal `[B]`, and the share of each view in them `[B, V]`: equal shares for the mean, 1 for the
        deciding view for the maximum, and the share in -log(1 - P) for noisy-or.
    """
    log_p = view_logits.log_softmax(-1)
    equal = mask.to(view_logits.dtype) / mask.sum(1, keepdim=True)
    if how == "mean":
        pooled = torch.logsumexp(log_p + equal.log()[..., None], dim=1)
        return pooled[:, 1] - pooled[:, 0], equal
    margins = view_logits[..., 1] - view_logits[..., 0]
    if how == "max":
        best = margins.masked_fill(~mask, -torch.inf).max(1)
        return best.values, functional.one_hot(best.indices, mask.shape[1]).to(view_logits.dtype)
    if how == "noisy_or":
        # With s = -log(1 - p) of a view and S their sum, the odds are exp(S) - 1. For a view that is certainly normal,
        # s rounds to 0, but its logarithm equals the log-odds of the view.
        log_s = torch.where(margins < _TINY, margins, functional.softplus(margins.clamp_min(_TINY)).log())
        log_s = log_s.masked_fill(~mask, -torch.inf)
        log_sum, total = log_s.logsumexp(1), functional.softplus(margins).masked_fill(~mask, 0.0).sum(1)
        total = total.clamp_min(math.exp(_TINY))
        return torch.where(log_sum < _TINY, log_sum, total + torch.log(-torch.expm1(-total))), log_s.softmax(1)
    raise ValueError(f"unknown pooling {how!r}; choose mean, max or noisy_or")


def pool_codes(scores: torch.Tensor, codes: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Averages the codes of views `[B, V, D]`, weighted by the softmax of their attention scores `[B, V]`.

    Returns:
        Code of each study `[B, D]`, and weights of the views `[B, V]`, 0 for padding.
    """
    weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
    return (weights[..., None] * codes).sum(1), weights


def mean_log_probabilities(
    logits: torch.Tensor | None, mask: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor | None:
    """Returns the log of the (weighted) mean class probabilities of each study, `[B, K]`.

    `logits` `[n, K]` are those of the unpadded views; without them, the result is None.
    """
    if logits is None:
        return None
    shares = mask / mask.sum(1, keepdim=True) if weights is None else weights
    return torch.logsumexp(
        scatter_views(logits, mask).log_softmax(-1) + shares.to(logits.dtype).log()[..., None], dim=1
    )


def scatter_views(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Puts values of the unpadded views `[n, ...]` into a padded batch `[B, V, ...]`, with zeros elsewhere."""
    padded = values.new_zeros((*mask.shape, *values.shape[1:]))
    padded[mask] = values
    return padded


def check_view_mask(pixel_values: torch.Tensor, view_mask: torch.Tensor | None) -> torch.Tensor:
    """Returns the mask of studies `[B, V, C, H, W]` as bool `[B, V]`; all True if None.

    Raises:
        ValueError: If a study has no view, or the shapes do not match.
    """
    shape = pixel_values.shape
    if len(shape) != 5:
        raise ValueError(f"pixel_values must be [studies, views, channels, height, width], not {list(shape)}")
    if view_mask is None:
        view_mask = torch.ones(shape[:2], dtype=torch.bool, device=pixel_values.device)
    mask = view_mask.to(torch.bool)
    if mask.shape != shape[:2] or not bool(mask.any(1).all()):
        raise ValueError("view_mask must be [studies, views] with at least one view in each study")
    return mask
