"""Several models in one checkpoint, whose probabilities are averaged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .heads_mura import check_view_mask
from .members_mura import (
    MuraEnsembleConfig,
    build_member,
    check_processors,
    copy_weights,
    describe_member,
    read_member,
)
from .modeling_mura_base import Explained, MuraClassifier, MuraImageClassifierOutput, StudyOutput


@dataclass
class MuraEnsembleOutput(MuraImageClassifierOutput):
    """A `MuraImageClassifierOutput` with `members`: name of a member -> its output."""

    members: dict[str, Any] | None = None


class MuraEnsembleForImageClassification(MuraClassifier):
    """The mean of several models' probabilities, with equal weights or such as were fitted.

    Each member answers for the study with its own pooling and calibration, and these answers are averaged. One image
    processor serves all.
    """

    config: MuraEnsembleConfig
    config_class = MuraEnsembleConfig

    def __init__(self, config: MuraEnsembleConfig):
        super().__init__(config)
        self.members = nn.ModuleDict(
            {name: build_member(read_member(values, name)) for name, values in (config.members or {}).items()}
        )
        self.post_init()

    @classmethod
    def from_members(
        cls,
        members: Mapping[str, MuraClassifier],
        processors: Mapping[str, Any] | None = None,
        weights: Mapping[str, float] | None = None,
        **config: Any,
    ) -> "MuraEnsembleForImageClassification":
        """Puts trained models together; their weights are copied.

        Args:
            members: Name -> model.
            processors: Name -> its image processor; where given, they must be equal.
            weights: Name -> share, which sum to 1; equal where None.
            **config: Further fields of `MuraEnsembleConfig`.

        Raises:
            CheckpointError: If processors differ, or a model cannot be a member.
            ValueError: If there are fewer than two, or the weights do not fit.
        """
        check_processors(processors or {})
        described = {name: describe_member(member) for name, member in members.items()}
        phantoms = all(member.config.trained_on_phantoms for member in members.values())
        fields = {"trained_on_phantoms": phantoms, **config}
        chosen = None if weights is None else {name: float(weight) for name, weight in weights.items()}
        model = cls(MuraEnsembleConfig(members=described, member_weights=chosen, **fields))
        for name, member in members.items():
            copy_weights(model.members[name], member)
        return model.eval()

    def classify_views(
        self, pixel_values: torch.Tensor, explainable: bool = False, **given: Any
    ) -> MuraEnsembleOutput:
        """Logits of views `[B, C, H, W]`, without a loss: log of the mean probability, divided by the temperature."""
        return self._combine(
            {name: member.classify_views(pixel_values, explainable=explainable) for name, member in self._named()}
        )

    def classify_studies(
        self,
        pixel_values: torch.Tensor,
        view_mask: torch.Tensor | None = None,
        explainable: bool = False,
        **given: Any,
    ) -> StudyOutput:
        """Answers for studies `[B, V, C, H, W]`, without a loss."""
        mask = check_view_mask(pixel_values, view_mask)
        found = {
            name: member.classify_studies(pixel_values, mask, explainable=explainable)
            for name, member in self._named()
        }
        views = self._combine({name: output.views for name, output in found.items()})
        study = self._mean({name: output.study_logits for name, output in found.items()})
        view_logits = self._mean({name: output.view_logits for name, output in found.items()})
        pooled = study[:, 1] - study[:, 0]
        alone = self._mean({name: _both(output.single_view_logit) for name, output in found.items()})
        shares = self.config.weights
        return StudyOutput(
            study_logits=self.calibrate(pooled),
            pooled_logit=pooled,
            single_view_logit=self.adjust(alone[..., 1] - alone[..., 0]) * mask,
            view_logits=view_logits / self.config.temperature * mask[..., None],
            view_weights=sum(shares[name] * output.view_weights for name, output in found.items()),
            body_part_logits=_mean_of_some([output.body_part_logits for output in found.values()]),
            views=views,
        )

    def explain(self, output: MuraImageClassifierOutput) -> list[Explained]:
        """Every member's maps, with its weight.

        Raises:
            CheckpointError: If a member has no feature map.
        """
        assert isinstance(output, MuraEnsembleOutput)
        assert output.members is not None
        return [
            part._replace(weight=self.config.weights[name] * part.weight)
            for name, member in self._named()
            for part in member.explain(output.members[name])
        ]

    def _named(self) -> list[tuple[str, Any]]:
        return list(self.members.items())

    def _combine(self, members: dict[str, Any]) -> MuraEnsembleOutput:
        return MuraEnsembleOutput(
            logits=self._mean({name: output.logits for name, output in members.items()}) / self.config.temperature,
            body_part_logits=_mean_of_some([output.body_part_logits for output in members.values()]),
            members=members,
        )

    def _mean(self, logits: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log of the weighted mean of the members' probabilities."""
        stacked = torch.stack([values.log_softmax(-1) for values in logits.values()])
        weights = stacked.new_tensor([self.config.weights[name] for name in logits])
        return torch.logsumexp(stacked + weights.log().view(-1, *[1] * (stacked.ndim - 1)), dim=0)


def _both(logit: torch.Tensor) -> torch.Tensor:
    """Logits of normal and abnormal `[..., 2]` from log-odds `[...]`."""
    return torch.stack([torch.zeros_like(logit), logit], dim=-1)


def _mean_of_some(logits: list[torch.Tensor | None]) -> torch.Tensor | None:
    """Log of the mean probability over the members that have the head; None where none has."""
    known = [values.log_softmax(-1) for values in logits if values is not None]
    return torch.stack(known).exp().mean(0).clamp_min(1e-30).log() if known else None


__all__ = ["MuraEnsembleForImageClassification", "MuraEnsembleOutput"]
