"""What ensembles and specialized models share: they consist of several members in one checkpoint."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn

from .configuration_mura import CheckpointError, MuraBaseConfig, MuraConfig
from .modeling_mura import MuraForImageClassification
from .modeling_mura_base import MuraClassifier, MuraImageClassifierOutput
from .modeling_mura_fusenet import MuraFuseNetForImageClassification
from .modeling_mura_metric_learning import MuraForMetricLearning

MEMBER_MODELS: dict[str, type[Any]] = {
    model.config_class.model_type: model
    for model in (MuraForImageClassification, MuraForMetricLearning, MuraFuseNetForImageClassification)
}

# transformers writes these fields into every configuration, but they say nothing about a member. The labels are always
# the same, and their indices would come back from JSON as strings.
_OMITTED_FIELDS = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "transformers_version",
}


@strict
class MuraMembersConfig(MuraBaseConfig):
    """Base of configurations with `members`: the configuration of each member by name."""

    members: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kind = kwargs.get("model_type", self.model_type)
        if kind != self.model_type:
            raise ValueError(f"a configuration of type {kind!r} cannot be loaded as type {self.model_type!r}")
        super().__post_init__(**kwargs)
        self._check("test_time_flip", not self.test_time_flip, "set it in the configurations of the members")


@dataclass
class MuraMembersOutput(MuraImageClassifierOutput):
    """A `MuraImageClassifierOutput` with attributes that are not among its items, which pipelines split by image.

    Attributes:
        members: Output of each member; in specialized models, for the views of its body part.
        rows: int64 `[n]`, positions of these views in the batch, for each body part; None for ensembles.
    """

    members: InitVar[Any] = None
    rows: InitVar[Any] = None

    def __post_init__(self, members: Any, rows: Any) -> None:
        super().__post_init__()
        self.members, self.rows = members or {}, rows


class MuraMembersModel(MuraClassifier):
    """Base of models with members."""

    config: MuraMembersConfig
    members: Any  # a ModuleDict

    def __init__(self, config: MuraMembersConfig):
        super().__init__(config)
        members = config.members or {}
        self.members = nn.ModuleDict({name: build_member(values, name) for name, values in members.items()})

    @classmethod
    def _join(cls, members: Mapping[str, MuraClassifier], processors: Mapping[str, Any] | None, **fields: Any) -> Any:
        """Builds the model from trained members, whose weights are copied."""
        check_processors(processors or {})
        described = {name: describe_member(member) for name, member in members.items()}
        phantoms = all(member.config.trained_on_phantoms for member in members.values())
        model = cls(cls.config_class(members=described, **{"trained_on_phantoms": phantoms, **fields}))
        for name, member in members.items():
            model.members[name].load_state_dict(member.state_dict())
        return model.eval()


def read_member(values: Any, where: str) -> MuraConfig:
    """Creates the configuration of a member from its dict; `where` names the member in the error message.

    Raises:
        ValueError: If models of its type cannot be members.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in MEMBER_MODELS:
        raise ValueError(
            f"{where} is of type {kind!r}; the dict of a member needs a model_type, one of {', '.join(MEMBER_MODELS)}"
        )
    return MEMBER_MODELS[kind].config_class.from_dict(values)


def build_member(values: Any, where: str) -> Any:
    """Builds the untrained model of a member; see `read_member`."""
    config = read_member(values, where)
    return MEMBER_MODELS[config.model_type](config)


def describe_member(model: MuraClassifier) -> dict[str, Any]:
    """Returns the configuration of a model as a dict for `members`.

    Raises:
        CheckpointError: If models of its type cannot be members.
    """
    if model.config.model_type not in MEMBER_MODELS:
        raise CheckpointError(
            f"a model of type {model.config.model_type!r} cannot be a member; use one of {', '.join(MEMBER_MODELS)}"
        )
    values = {name: value for name, value in model.config.to_diff_dict().items() if name not in _OMITTED_FIELDS}
    return {**values, "model_type": model.config.model_type, "backbone": model.config.backbone}


def check_processors(processors: Mapping[str, Any]) -> None:
    """Checks that members, whose processors are given by name, can share one.

    Raises:
        CheckpointError: If two differ; the message names the settings.
    """
    known = {
        name: {key: value for key, value in processor.to_dict().items() if not key.startswith("_")}
        for name, processor in processors.items()
    }
    first = next(iter(known), "")
    for name in known:
        keys = sorted({*known[first], *known[name]})
        different = [key for key in keys if known[first].get(key) != known[name].get(key)]
        if different:
            details = ", ".join(f"{key} ({known[first].get(key)} and {known[name].get(key)})" for key in different)
            raise CheckpointError(
                f"members {first} and {name} preprocess images differently, in {details}; members of one checkpoint "
                "share one processor, so train them with the same preprocessing"
            )
