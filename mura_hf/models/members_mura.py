"""Configurations of models that are made of other models.

Models that are members of another model.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from .configuration_mura import BODY_PARTS, CheckpointError, MuraBaseConfig, MuraConfig
from .modeling_mura import MuraForImageClassification
from .modeling_mura_base import MuraClassifier
from .modeling_mura_fusenet import MuraFuseNetConfig, MuraFuseNetForImageClassification
from .modeling_mura_metric_learning import MuraForMetricLearning, MuraMetricLearningConfig

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


MEMBER_MODELS: dict[str, type[MuraClassifier]] = {
    model.config_class.model_type: model
    for model in (MuraForImageClassification, MuraForMetricLearning, MuraFuseNetForImageClassification)
}

# What transformers writes into every configuration, and which says nothing about a member. Labels are always the same;
# their numbers would come back from JSON as strings.
_NOT_OURS = ("_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "transformers_version")


def build_member(config: MuraConfig) -> Any:
    """The untrained model of a member's configuration."""
    return MEMBER_MODELS[config.model_type](config)


def describe_member(model: MuraClassifier) -> dict[str, Any]:
    """A model's configuration as a dict for `members`.

    Raises:
        CheckpointError: If models of its kind cannot be members.
    """
    if model.config.model_type not in MEMBER_MODELS:
        raise CheckpointError(
            f"a model of type {model.config.model_type!r} cannot be a member; there are {', '.join(MEMBER_MODELS)}"
        )
    values = model.config.to_diff_dict()
    kept = {name: value for name, value in values.items() if name not in _NOT_OURS}
    return {**kept, "model_type": model.config.model_type, "backbone": model.config.backbone}


def check_processors(processors: Mapping[str, Any]) -> None:
    """Makes sure that members can share one image processor.

    Args:
        processors: Name of a member -> its processor.

    Raises:
        CheckpointError: If two differ; the message says in what.
    """
    named = {
        name: {key: value for key, value in processor.to_dict().items() if not key.startswith("_")}
        for name, processor in processors.items()
    }
    first = next(iter(named), "")
    for name in named:
        keys = sorted({*named[first], *named[name]})
        different = [key for key in keys if named[first].get(key) != named[name].get(key)]
        if different:
            told = ", ".join(f"{key} ({named[first].get(key)} and {named[name].get(key)})" for key in different)
            raise CheckpointError(
                f"members {first} and {name} prepare pictures differently, in {told}; members of one checkpoint share "
                "one processor, so train them with the same preprocessing"
            )


def copy_weights(target: Any, source: MuraClassifier) -> None:
    """Fills a member with the weights of a trained model."""
    with torch.no_grad():
        target.load_state_dict(source.state_dict())


__all__ = [
    "MEMBER_CONFIGS",
    "MEMBER_MODELS",
    "MuraEnsembleConfig",
    "MuraSpecializedConfig",
    "build_member",
    "check_processors",
    "copy_weights",
    "describe_member",
    "read_member",
]
