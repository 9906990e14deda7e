"""What a checkpoint decides about a run that goes on from it."""

import difflib
from typing import Any

import timm
from PIL.Image import Resampling

from ..errors import CheckpointError, ConfigError
from ..models import MuraImageProcessor
from .families import ASSEMBLED, FAMILIES, config_class, free_fields
from .recipe import Recipe
from .recipe_parts import TIMM
from .starting import Base, find_base

_METRIC = ("metric_loss", "metric_weight", "classes_over")


def take_over(recipe: Recipe, name: str) -> tuple[dict[str, Any], list[str]]:
    """What is to change in a recipe, so that a run goes on from a checkpoint, or starts from a backbone of timm.

    Of a checkpoint come family, backbone, heads, size and preparation of the pictures, but not its calibration; of
    timm's weights the backbone and its normalisation.

    Args:
        recipe: Of the run.
        name: As `Recipe.init_from`.

    Returns:
        Keys and values that replace those of `recipe.to_dict()`, and sentences about what may surprise.

    Raises:
        ConfigError: If the recipe, or the kind of checkpoint, does not allow it.
        CheckpointError: If there is no such checkpoint.
    """
    if recipe.family == "ensemble":
        raise ConfigError(
            f"{recipe.name} is an ensemble, whose members start as their own recipes say: set init_from in those, "
            f"{', '.join(recipe.members)}"
        )
    if name.startswith(TIMM):
        return _take_timm(recipe, name)
    base = find_base(name)
    config: Any = base.read_config()
    family = next((key for key in FAMILIES if config_class(key).model_type == config.model_type), None)
    if family is None:
        raise ConfigError(
            f"{base.name} is made of several models, which cannot be trained on together; train each on, from its own "
            "folder, and put them together again"
        )
    if recipe.family in ASSEMBLED and family != "classifier":
        raise ConfigError(
            f"a model for each body part is made of classifiers, and {base.name} is a {family}; start from one"
        )
    if config.num_channels != 3:
        raise ConfigError(f"{base.name} takes {config.num_channels} channels; a recipe knows three only")
    told: list[str] = []
    taken: dict[str, Any] = {
        "family": recipe.family if recipe.family in ASSEMBLED else family,
        "backbone": config.backbone,
        "backbone_kwargs": config.backbone_kwargs,
        "pretrained": False,
        "init_from": name,
        "init_heads": True,
        "head_dropout": config.head_dropout,
        "body_part_head": config.body_part_head,
        "model": _model_fields(recipe, config, family, told),
        **_take_preparation(base, full_resolution=getattr(config, "full_resolution", False), side=config.image_size),
    }
    if config.study_pooling == "gated_attention" and recipe.level != "study":
        taken["level"] = "study"
        told.append(f"{base.name} attends to the views of a study, so that whole studies are trained on: level study.")
    if recipe.augmentation.random_crop and taken["resize_size"] is None:
        taken["augmentation"] = {**recipe.to_dict()["augmentation"], "random_crop": False}
        told.append(f"{base.name} sees whole pictures, so there is no random_crop.")
    if family == "metric_learning" and recipe.metric_loss is None:
        taken |= _take_metric_loss(base)
    if family == "fusenet" and not recipe.stages:
        taken["stages"] = [{"trains": one, "epochs": recipe.epochs} for one in ("global", "local", "fusion")]
        told.append(f"{base.name} is a FuseNet: each of its stages takes {recipe.epochs} epochs.")
    return taken, told


def _take_timm(recipe: Recipe, name: str) -> tuple[dict[str, Any], list[str]]:
    weights = name.removeprefix(TIMM)
    if not timm.is_model(weights):
        near = difflib.get_close_matches(weights, timm.list_models(), n=1)
        raise ConfigError(
            f"timm has no backbone {weights!r}; " + (f"did you mean {near[0]!r}?" if near else "check the name")
        )
    same = weights.partition(".")[0] == recipe.backbone.partition(".")[0]
    return {
        "backbone": weights,
        "backbone_kwargs": recipe.backbone_kwargs if same else None,
        "pretrained": False,
        "init_from": name,
        "init_heads": False,
        "image_mean": None,
        "image_std": None,
    }, []


def _model_fields(recipe: Recipe, config: Any, family: str, told: list[str]) -> dict[str, Any]:
    """Fields of the checkpoint's config that are not as by default."""
    plain = config_class(family)()
    known = {name: getattr(config, name) for name in sorted(free_fields(type(config)))}
    fields = {name: value for name, value in known.items() if value != getattr(plain, name)}
    if not recipe.finding_weight and fields.pop("finding_types", None):
        told.append("The head for the type of finding is left out, since finding_weight is 0.")
    if recipe.finding_weight and recipe.model.get("finding_types"):
        fields["finding_types"] = recipe.model["finding_types"]
    return fields


def _take_preparation(base: Base, *, full_resolution: bool, side: int) -> dict[str, Any]:
    """Keys of the recipe that make the checkpoint's image processor again."""
    try:
        processor: Any = MuraImageProcessor.from_pretrained(base.folder)
    except Exception as error:  # a checkpoint comes from strangers and may be wrong in any way
        raise CheckpointError(f"init_from: the image processor of {base.name} cannot be read: {error}") from error
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else processor.size
    plain = MuraImageProcessor()
    odd = [
        name
        for name in ("do_normalize", "do_rescale", "rescale_factor")
        if getattr(processor, name) != getattr(plain, name)
    ]
    if Resampling(processor.resample) != Resampling(plain.resample):
        odd.append("resample")
    if size.height != size.width or crop.height != crop.width:
        odd.append("size")
    if odd:
        raise ConfigError(
            f"{base.name} prepares pictures in a way that no recipe can say ({', '.join(odd)}), so it cannot be "
            "trained on here"
        )
    image_size = side if full_resolution else crop.height
    return {
        "image_size": image_size,
        "resize_size": None if size.height == image_size else size.height,
        "resize_mode": processor.resize_mode,
        "enhance": processor.enhance or None,
        "crop_border": processor.crop_border,
        "image_mean": [float(value) for value in processor.image_mean],
        "image_std": [float(value) for value in processor.image_std],
    }


def _take_metric_loss(base: Base) -> dict[str, Any]:
    """The loss on embeddings that a checkpoint was trained with, where its records tell it."""
    recorded = base.read_training().get("recipe", {})
    return {name: recorded[name] for name in _METRIC if name in recorded}
