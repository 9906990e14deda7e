"""Models that are members of another model."""

from collections.abc import Mapping
from typing import Any

import torch

from .configuration_mura import MuraConfig
from .errors_mura import CheckpointError
from .modeling_mura import MuraForImageClassification
from .modeling_mura_base import MuraClassifier
from .modeling_mura_fusenet import MuraFuseNetForImageClassification
from .modeling_mura_metric_learning import MuraForMetricLearning

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


__all__ = ["MEMBER_MODELS", "build_member", "check_processors", "copy_weights", "describe_member"]
