"""The `mura_ensemble` family: several models in one checkpoint, whose probabilities are averaged."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from .heads_mura import check_view_mask
from .members_mura import MuraMembersConfig, MuraMembersModel, MuraMembersOutput, read_member
from .modeling_mura_base import ExplainedMap, MuraClassifier, MuraImageClassifierOutput, StudyOutput


@strict
class MuraEnsembleConfig(MuraMembersConfig):
    r"""
    Configuration of an ensemble, in addition to the fields of `MuraBaseConfig`.

    Args:
        members (`dict[str, dict]`):
            Configuration of each of at least two members, by name.
        member_weights (`dict[str, float]`, *optional*):
            Weight of each member by name; they sum to 1. Equal weights by default.
    """

    model_type = "mura_ensemble"

    member_weights: dict[str, float | int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        members = self.members or {}
        if len(members) < 2:
            raise ValueError("an ensemble needs at least two members, each with its configuration")
        # Members become attributes of a module, which has attributes of its own.
        wrong = [name for name in members if not name or "." in name or hasattr(nn.ModuleDict(), name)]
        if wrong:
            raise ValueError(
                f"members may not be called {', '.join(map(repr, wrong))}: use names without a dot that are not "
                "attributes of torch modules"
            )
        for name, values in members.items():
            read_member(values, f"member {name}")
        self.members = dict(sorted(members.items()))  # the order in config.json
        values = self.weights.values()
        valid = set(self.weights) == set(members) and min(values) >= 0 and abs(sum(values) - 1) <= 1e-4
        names = ", ".join(self.members)
        self._check("member_weights", valid, f"give each of {names} a weight that is not negative; they must sum to 1")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each member."""
        if self.member_weights is None:
            return {name: 1 / len(self.members or {}) for name in self.members or {}}
        return {name: float(weight) for name, weight in self.member_weights.items()}

    @property
    def backbone(self) -> str:
        """Description of the members' backbones."""
        counted = Counter(values["backbone"] for values in (self.members or {}).values())
        return "ensemble of " + ", ".join(f"{n} {name}" if n > 1 else name for name, n in counted.items())

    @property
    def regions(self) -> list[str] | None:
        """Regions that the members predict; None if they predict none, or different ones."""
        found = [values["regions"] for values in (self.members or {}).values() if values.get("regions")]
        return found[0] if found and all(names == found[0] for names in found) else None


class MuraEnsembleForImageClassification(MuraMembersModel):
    """Averages the probabilities of several models, with equal or fitted weights.

    Each member classifies a study with its own pooling and calibration; then the results are averaged. All members
    share one image processor.
    """

    config: MuraEnsembleConfig
    config_class = MuraEnsembleConfig

    def __init__(self, config: MuraEnsembleConfig):
        super().__init__(config)
        self.post_init()

    @classmethod
    def from_members(
        cls,
        members: Mapping[str, MuraClassifier],
        processors: Mapping[str, Any] | None = None,
        weights: Mapping[str, float] | None = None,
        **config: Any,
    ) -> "MuraEnsembleForImageClassification":
        """Combines trained models, given by name, into an ensemble; their weights are copied.

        Args:
            members: The models.
            processors: Their image processors. If given, they must be equal.
            weights: Weights in the mean, which sum to 1; equal if None.
            **config: Further fields of `MuraEnsembleConfig`.

        Raises:
            CheckpointError: If processors differ, or a model cannot be a member.
            ValueError: If there are fewer than two members, or the weights do not match.
        """
        shares = None if weights is None else {name: float(weight) for name, weight in weights.items()}
        return cls._join(members, processors, member_weights=shares, **config)

    def classify_views(self, pixel_values: torch.Tensor, explainable: bool = False, **given: Any) -> MuraMembersOutput:
        """Computes logits of views `[B, C, H, W]`: log of the mean probability, divided by the temperature."""
        members = self.members.items()
        return self._combine({name: one.classify_views(pixel_values, explainable, **given) for name, one in members})

    def classify_studies(
        self, pixel_values: torch.Tensor, view_mask: torch.Tensor | None = None, **given: Any
    ) -> StudyOutput:
        """Classifies studies `[B, V, C, H, W]`, without a loss."""
        mask = check_view_mask(pixel_values, view_mask)
        outputs = {name: model.classify_studies(pixel_values, mask, **given) for name, model in self.members.items()}
        study = self._mean([output.study_logits for output in outputs.values()])
        view_logits = self._mean([output.view_logits for output in outputs.values()])
        pooled = study[:, 1] - study[:, 0]
        single_view = self._mean([_to_logits(output.single_view_logit) for output in outputs.values()])
        weights = self.config.weights
        return StudyOutput(
            study_logits=self.calibrate(pooled),
            pooled_logit=pooled,
            single_view_logit=self.adjust(single_view[..., 1] - single_view[..., 0]) * mask,
            view_logits=view_logits / self.config.temperature * mask[..., None],
            view_weights=sum(weights[name] * output.view_weights for name, output in outputs.items()),
            body_part_logits=_mean_of_known([output.body_part_logits for output in outputs.values()]),
            region_logits=self._mean_of_regions(outputs),
            views=self._combine({name: output.views for name, output in outputs.items()}),
        )

    def explain(self, output: MuraImageClassifierOutput) -> list[ExplainedMap]:
        """Returns the maps of all members, with the members' weights.

        Raises:
            CheckpointError: If a member has no feature map.
        """
        assert isinstance(output, MuraMembersOutput)
        return [
            explained._replace(weight=self.config.weights[name] * explained.weight)
            for name, model in self.members.items()
            for explained in model.explain(output.members[name])
        ]

    def _combine(self, members: dict[str, Any]) -> MuraMembersOutput:
        return MuraMembersOutput(
            logits=self._mean([output.logits for output in members.values()]) / self.config.temperature,
            body_part_logits=_mean_of_known([output.body_part_logits for output in members.values()]),
            region_logits=self._mean_of_regions(members),
            members=members,
        )

    def _mean_of_regions(self, outputs: dict[str, Any]) -> torch.Tensor | None:
        if self.config.regions is None:
            return None
        return _mean_of_known([output.region_logits for output in outputs.values()])

    def _mean(self, logits: list[torch.Tensor]) -> torch.Tensor:
        """Log of the weighted mean of the members' probabilities."""
        stacked = torch.stack([values.log_softmax(-1) for values in logits])
        weights = stacked.new_tensor([self.config.weights[name] for name in self.members])
        return torch.logsumexp(stacked + weights.log().view(-1, *[1] * (stacked.ndim - 1)), dim=0)


def _to_logits(log_odds: torch.Tensor) -> torch.Tensor:
    """Logits of normal and abnormal `[..., 2]` from log-odds `[...]`."""
    return torch.stack([torch.zeros_like(log_odds), log_odds], dim=-1)


def _mean_of_known(logits: list[torch.Tensor | None]) -> torch.Tensor | None:
    """Log of the mean probability over the members with this head; None if no member has it."""
    known = [values.log_softmax(-1) for values in logits if values is not None]
    return torch.stack(known).exp().mean(0).clamp_min(1e-30).log() if known else None
