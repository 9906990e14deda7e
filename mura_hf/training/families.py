"""The model families that a recipe can name."""

import difflib
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .. import models
from ..errors import ConfigError

if TYPE_CHECKING:
    from .recipe import Recipe

FAMILIES = {
    "classifier": ("MuraConfig", "MuraForImageClassification"),
    "metric_learning": ("MuraMetricLearningConfig", "MuraForMetricLearning"),
    "fusenet": ("MuraFuseNetConfig", "MuraFuseNetForImageClassification"),
}
"""Family -> its config and its model, of those that are trained as one."""

ASSEMBLED = ("ensemble", "specialized")
"""Families that are put together from members trained one by one."""

NOT_JUDGED = ("embedding",)
"""Stages that train nothing which could answer, so that dev cannot rank their epochs."""

_RECIPE_SETS = ("backbone", "backbone_kwargs", "image_size", "head_dropout", "body_part_head")
_CALIBRATION_SETS = ("temperature", "study_slope", "study_intercept", "operating_points")
_NOT_FREE = (
    "num_channels",
    "trained_on_phantoms",
    "positive_class_description",
    "abnormal_means",
    "id2label",
    "label2id",
)


def config_class(family: str) -> Any:
    """The config class of a family."""
    return getattr(models, FAMILIES[family][0])


def model_class(family: str) -> Any:
    """The model class of a family."""
    return getattr(models, FAMILIES[family][1])


def config_fields(recipe: "Recipe") -> dict[str, Any]:
    """Fields of the family's config, but for the backbone's name.

    Raises:
        ConfigError: If `model` holds what is no field, or is set elsewhere.
    """
    known = free_fields(config_class(recipe.family))
    for key in recipe.model:
        if key in _RECIPE_SETS:
            raise ConfigError(f"model: {key} is a key of the recipe itself; set it there")
        if key in _CALIBRATION_SETS:
            raise ConfigError(f"model: {key} is fitted on calib after training, it cannot be chosen")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            told = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise ConfigError(f"model: a {recipe.family} has no {key!r}; {told}")
    return {
        **{name: getattr(recipe, name) for name in _RECIPE_SETS if name != "backbone"},
        **recipe.model,
    }


def check_config(recipe: "Recipe") -> None:
    """Builds the config of a recipe, to see that it can be.

    Raises:
        ConfigError: If a field is none, of the wrong type or out of range.
    """
    try:
        config_class(recipe.family)(backbone=recipe.backbone, **config_fields(recipe))
    except (ValueError, StrictDataclassError) as error:
        raise ConfigError(f"the model that the recipe describes cannot be: {error}") from error


def free_fields(config: Any) -> set[str]:
    """Names of the fields that a recipe's `model` may set."""
    own = [kind for kind in config.__mro__ if issubclass(kind, PreTrainedConfig) and kind is not PreTrainedConfig]
    names = {name for kind in own for name in vars(kind).get("__annotations__", {})}
    return {
        name
        for name in names - {*_RECIPE_SETS, *_CALIBRATION_SETS, *_NOT_FREE}
        if name not in vars(PreTrainedConfig).get("__annotations__", {})
    }
