"""Checks of the arguments: types and ranges of single values, and values that contradict each other."""

import dataclasses
from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..common import did_you_mean
from ..errors import ConfigError
from ..losses import build_metric_loss
from ..models import MuraForImageClassification, MuraForMetricLearning, MuraFuseNetForImageClassification
from ..models.backbone_mura import IMAGENET_WEIGHTS

if TYPE_CHECKING:
    from .arguments import ModelArguments, TrainingConfig

TIMM = "timm:"
"""Prefix of `init_from` for a backbone of timm."""

IMAGENET = "imagenet:"
"""Prefix of `init_from` for a backbone of timm whose weights are in an installed package."""

FAMILIES: dict[str, Any] = {
    "classifier": MuraForImageClassification,
    "metric_learning": MuraForMetricLearning,
    "fusenet": MuraFuseNetForImageClassification,
}
"""Model class of each family that is trained as one model."""

COMPOSED = ("ensemble", "specialized")
"""Families that consist of members, which are trained one by one."""

WITHOUT_CLASSIFIER = ("embedding",)
"""Stages that do not train a classifier, so dev cannot rank their epochs."""

RANGES = {
    "above 0": lambda value: value > 0,
    "0 or above": lambda value: value >= 0,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "32 or above": lambda value: value >= 32,
}

SET_BY_ARGUMENTS = ("backbone", "backbone_kwargs", "image_size", "head_dropout", "body_part_head")
_SET_BY_CALIBRATION = (
    "has_ood_detector", "temperature", "study_slope", "study_intercept", "operating_points", "default_operating_point",
    "bands", "regions",
)  # fmt: skip
_SET_BY_TRAINING = (
    "num_channels", "trained_on_phantoms", "positive_class_description", "abnormal_means", "id2label", "label2id",
)  # fmt: skip
_NAMES = {
    float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null",
}  # fmt: skip


def check_values(kind: type, values: Mapping[str, Any]) -> None:
    """Checks values against the annotated types and the ranges of a dataclass."""
    hints = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if item.name not in values:
            continue
        value, must_be = values[item.name], item.metadata.get("must_be")
        if not _fits(value, hints[item.name]):
            raise ConfigError(f"{item.name} is {value!r}, but must be {_describe(hints[item.name])}")
        if must_be and value is not None and not RANGES[must_be](value):
            raise ConfigError(f"{item.name} is {value}, but must be {must_be}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has an annotated type. An int may serve as a float; a bool is no number."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    return hint is Any or type(value) in ((int, float) if hint is float else (origin or hint,))


def _describe(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return " or ".join(map(_describe, inner))
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin is list:
        return f"a list ({_describe(inner[0])} each)"
    return "keys and values" if origin is dict else _NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def free_config_fields(config_class: Any) -> set[str]:
    """Fields of a model's config class that `model_kwargs` may set."""
    own = [
        kind for kind in config_class.__mro__ if issubclass(kind, PreTrainedConfig) and kind is not PreTrainedConfig
    ]
    names = {name for kind in own for name in vars(kind).get("__annotations__", {})}
    inherited = vars(PreTrainedConfig).get("__annotations__", {})
    return names - {*SET_BY_ARGUMENTS, *_SET_BY_CALIBRATION, *_SET_BY_TRAINING, *inherited}


def check_config(config: "TrainingConfig") -> None:
    """Checks that the arguments go together."""
    model, data, training = config.model, config.data, config.training
    size, resized = model.image_size, model.resize_size
    if resized is not None and resized < size:
        raise ConfigError(f"resize_size is {resized}, but image_size {size} must fit into it")
    if config.augmentation.random_crop and resized in (None, size):
        raise ConfigError("random_crop needs a resize_size above image_size")
    if data.sampling == "classes":
        made = data.classes_per_batch * data.samples_per_class
        if made != training.batch_size:
            raise ConfigError(
                f"sampling classes makes batches of classes_per_batch {data.classes_per_batch} x samples_per_class "
                f"{data.samples_per_class} = {made}, but batch_size is {training.batch_size}; make them agree"
            )
        if data.classes_per_batch < 2:
            raise ConfigError("classes_per_batch must be 2 or above")
        if data.classes_over == "label" and data.classes_per_batch != 2:
            raise ConfigError("there are two labels: set classes_per_batch to 2, or classes_over to label_and_part")
    if model.family in COMPOSED:
        _check_members(config)
        return
    if model.members or model.router or model.fit_member_weights:
        raise ConfigError(
            f"members, router and fit_member_weights belong to the families {' and '.join(COMPOSED)}, but family is "
            f"{model.family}"
        )
    _check_model(config)
    _check_losses(config)
    _check_stages(config)


def _check_members(config: "TrainingConfig") -> None:
    model = config.model
    if model.family == "specialized":
        if model.members or model.fit_member_weights:
            raise ConfigError("a specialized model has a member of this config for each body part: leave out members")
        config.replace(family="classifier", router=None)  # checks itself
        return
    if config.training.stages:
        raise ConfigError("an ensemble has no stages; its members' configs have theirs")
    if len(model.members) < 2:
        raise ConfigError("an ensemble needs two members or more; name a config again to train it with another seed")
    if model.router:
        raise ConfigError("an ensemble has no router; it belongs to family specialized")


def _check_model(config: "TrainingConfig") -> None:
    """Checks where the weights start, and builds the model's config."""
    model: ModelArguments = config.model
    if model.init_from is not None and model.pretrained:
        raise ConfigError("init_from and pretrained both say where the backbone starts; set pretrained to false")
    if model.init_heads and model.init_checkpoint is None:
        raise ConfigError("init_heads loads heads from a checkpoint: name one in init_from, or set it to false")
    weights = model.timm_weights
    if model.has_packaged_weights and weights not in IMAGENET_WEIGHTS:
        hint = did_you_mean(str(weights), IMAGENET_WEIGHTS) or f"; there are {', '.join(IMAGENET_WEIGHTS)}"
        raise ConfigError(f"init_from: no package has ImageNet weights of {weights!r}{hint}")
    if weights is not None and weights.partition(".")[0] != model.backbone.partition(".")[0]:
        raise ConfigError(f"init_from is {weights}, but backbone is {model.backbone}: set backbone to {weights}")
    config_class = FAMILIES[model.family].config_class
    known = free_config_fields(config_class)
    for key in model.model_kwargs:
        if key in SET_BY_ARGUMENTS:
            raise ConfigError(f"model_kwargs: {key} is an argument of its own; set it there")
        if key in _SET_BY_CALIBRATION:
            raise ConfigError(f"model_kwargs: {key} is fitted after training; it cannot be set")
        if key not in known:
            hint = did_you_mean(key, known) or f"; there are {', '.join(sorted(known))}"
            raise ConfigError(f"model_kwargs: a {model.family} has no {key!r}{hint}")
    try:
        config_class(backbone=model.backbone, **config.model_config_fields())
    except (ValueError, StrictDataclassError) as error:
        raise ConfigError(f"the model cannot be built: {error}") from error


def _check_losses(config: "TrainingConfig") -> None:
    family, training, model_kwargs = config.model.family, config.training, config.model.model_kwargs
    if (training.metric_loss is None) != (family != "metric_learning"):
        raise ConfigError("metric_loss and family metric_learning belong together: set both or neither")
    if training.metric_loss is not None:
        build_metric_loss(training.metric_loss, training.metric_loss_options)
    if bool(training.finding_weight) != bool(model_kwargs.get("finding_types")):
        raise ConfigError("finding_weight and finding_types (in model_kwargs) go together: set both or neither")
    if training.region_weight and family == "fusenet":
        raise ConfigError("region_weight needs a model with one branch: set it to 0, or train the global branch apart")
    if config.augmentation.random_crop and model_kwargs.get("full_resolution"):
        raise ConfigError("full_resolution shows the whole image: set random_crop to false")
    if config.data.level == "study":
        if family != "classifier":
            raise ConfigError(f"level study needs family classifier, not {family}; use level view")
        if training.region_weight:
            raise ConfigError("region_weight is a loss of views: use level view, or set it to 0")
    elif model_kwargs.get("study_pooling", "mean") == "gated_attention":
        raise ConfigError("study_pooling gated_attention is learned over the views of a study: set level to study")
    conflicts = {
        "level study, because studies have different numbers of views": config.data.level == "study",
        "region_weight, because a place of a mixed view belongs to two": training.region_weight,
        "patches, which are cut so that one finding fills them": any(s.patch_size for s in training.stages),
        "metric_loss, because a mixed view belongs to two classes": training.metric_loss,
        "family fusenet, whose crop would show parts of two views": family == "fusenet",
    }
    for what, given in conflicts.items():
        if given and training.mixup:
            raise ConfigError(f"mixup does not go with {what}; set mixup to 0")


def _check_stages(config: "TrainingConfig") -> None:
    family, stages = config.model.family, config.training.stages
    known = FAMILIES[family].STAGES
    for stage in stages:
        if stage.trains is not None and stage.trains not in known:
            raise ConfigError(f"stages: a {family} has no stage {stage.trains!r}; there are {', '.join(known)}")
        chosen, size = config.for_stage(stage), stage.patch_size  # checks itself
        schedule = chosen.training.schedule
        if size is not None:
            conflicts = {
                f"patch_size {size} must not be larger than image_size {chosen.model.image_size}":
                    size > chosen.model.image_size,
                "patches need level view; leave out patch_size": chosen.data.level == "study",
                "patches are crops already; leave out random_crop in that stage": chosen.augmentation.random_crop,
                "patches have no dev loss for schedule plateau; choose cosine": schedule == "plateau",
            }  # fmt: skip
            for what, given in conflicts.items():
                if given:
                    raise ConfigError(f"stages: {what}")
        if stage.trains in WITHOUT_CLASSIFIER and schedule == "plateau":
            raise ConfigError(
                f"stage {stage.trains} does not train a classifier, so it has no dev loss for schedule plateau; "
                "choose another schedule for it"
            )
    named = [stage.trains for stage in stages if stage.patch_size is None]
    if family == "fusenet" and named and named != list(known):
        raise ConfigError(
            f"stages are {', '.join(map(str, named))}, but a fusenet is trained in the stages {', '.join(known)}, "
            "each once and in this order, because each builds on the one before"
        )
    if stages and stages[-1].patch_size is not None:
        raise ConfigError("stages: after patches there must be a stage on whole views, which can be evaluated on dev")
    if stages and stages[-1].trains in WITHOUT_CLASSIFIER:
        raise ConfigError(f"stages: after {stages[-1].trains} there must be a stage that trains the classifier")
