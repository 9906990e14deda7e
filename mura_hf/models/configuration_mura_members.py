"""Configurations of models that are made of other models."""

from collections import Counter
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn

from .configuration_mura import MuraConfig
from .configuration_mura_base import BODY_PARTS, MuraBaseConfig
from .configuration_mura_fusenet import MuraFuseNetConfig
from .configuration_mura_metric_learning import MuraMetricLearningConfig

MEMBER_CONFIGS: dict[str, type[MuraConfig]] = {
    config.model_type: config for config in (MuraConfig, MuraMetricLearningConfig, MuraFuseNetConfig)
}


def read_member(values: Any, where: str) -> MuraConfig:
    """The configuration of a member from its dict, as it stands in the `members` of a checkpoint.

    Raises:
        ValueError: If it is of a type that cannot be a member.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in MEMBER_CONFIGS:
        raise ValueError(
            f"{where} is of type {kind!r}; a member must be one of {', '.join(MEMBER_CONFIGS)}, and its dict name its "
            "model_type"
        )
    return MEMBER_CONFIGS[kind].from_dict(values)


@strict
class MuraEnsembleConfig(MuraBaseConfig):
    r"""
    Several models whose studies' probabilities are averaged; and what `MuraBaseConfig` holds.

    Args:
        members (`dict[str, dict]`, *optional*):
            Name of a member -> its configuration.
        member_weights (`dict[str, float]`, *optional*):
            Name of a member -> its share; equal shares by default. They sum to 1.

    Raises:
        ValueError: If there are fewer than two members, or the weights do not fit them.
    """

    model_type = "mura_ensemble"

    members: dict[str, Any] | None = None
    member_weights: dict[str, float | int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _check_kind(self.model_type, kwargs)
        super().__post_init__(**kwargs)
        _check_no_flip(self)
        if len(self.members or {}) < 2:
            raise ValueError("an ensemble needs two members or more, each with its configuration")
        _check_names(self.members or {})
        for name, values in (self.members or {}).items():
            read_member(values, f"member {name}")
        self.members = dict(sorted((self.members or {}).items()))  # as config.json will have them
        weights = self.weights
        if (
            set(weights) != set(self.members or {})
            or min(weights.values()) < 0
            or abs(sum(weights.values()) - 1) > 1e-4
        ):
            raise ValueError(
                f"member_weights is {self.member_weights}: it must give each of {', '.join(self.members or {})} "
                "a share that is not negative, and they must sum to 1"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Share of each member."""
        if self.member_weights is None:
            return {name: 1 / len(self.members or {}) for name in self.members or {}}
        return {name: float(weight) for name, weight in self.member_weights.items()}

    @property
    def backbone(self) -> str:
        """The members' backbones in words."""
        counted = Counter(values["backbone"] for values in (self.members or {}).values())
        return "ensemble of " + ", ".join(f"{n} {name}" if n > 1 else name for name, n in counted.items())


@strict
class MuraSpecializedConfig(MuraBaseConfig):
    r"""
    One model for each body part; and what `MuraBaseConfig` holds.

    Args:
        members (`dict[str, dict]`, *optional*):
            Body part, one of `BODY_PARTS` -> configuration of its model.
        router (`dict`, *optional*):
            Configuration of a model with a body-part head, which finds the part where it is not given.

    Raises:
        ValueError: If there is no member, a name is no body part, or the router has no body-part head.
    """

    model_type = "mura_specialized"

    members: dict[str, Any] | None = None
    router: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _check_kind(self.model_type, kwargs)
        super().__post_init__(**kwargs)
        _check_no_flip(self)
        unknown = sorted(set(self.members or {}) - set(BODY_PARTS))
        if not self.members or unknown:
            raise ValueError(
                f"members names {', '.join(unknown) or 'nobody'}: it must name body parts and nothing else; "
                f"there are {', '.join(BODY_PARTS)}"
            )
        for name, values in self.members.items():
            read_member(values, f"the member for {name}")
        if self.router is not None and not read_member(self.router, "the router").body_part_head:
            raise ValueError("the router must have a body-part head; train it with body_part_head=True")

    @property
    def backbone(self) -> str:
        """The members' backbones in words."""
        return "for each body part " + ", ".join(dict.fromkeys(m["backbone"] for m in (self.members or {}).values()))


def _check_kind(own: str, given: dict[str, Any]) -> None:
    kind = given.get("model_type", own)
    if kind != own:
        raise ValueError(f"a configuration of type {kind!r} is none of type {own!r}; load it as what it is")


def _check_no_flip(config: MuraBaseConfig) -> None:
    if config.test_time_flip:
        raise ValueError(
            "test_time_flip belongs into the configurations of the members, each of which averages over its own views "
            "and their mirror images"
        )


def _check_names(members: dict[str, Any]) -> None:
    # Members become parts of a module, which has names of its own.
    wrong = [name for name in members if not name or "." in name or hasattr(nn.ModuleDict(), name)]
    if wrong:
        raise ValueError(
            f"members may not be called {', '.join(map(repr, wrong))}: give names without a dot, which torch's "
            "modules do not use themselves"
        )


__all__ = ["MEMBER_CONFIGS", "MuraEnsembleConfig", "MuraSpecializedConfig", "read_member"]
