"""Model and image processor of a recipe."""

import os
import sys
from typing import Any

import timm
import torch
from transformers import AutoModelForImageClassification

from ..errors import CheckpointError, ConfigError
from ..models import MuraImageProcessor, MuraModel
from .families import config_class, config_fields, model_class
from .recipe import Recipe
from .starting import describe_start, find_base


def build_model(recipe: Recipe, *, trained_on_phantoms: bool) -> Any:
    """The model of a recipe, as training finds it; never calibrated, whatever it starts from.

    Raises:
        CheckpointError: If there are no weights to start from, or they are of another backbone.
        ConfigError: If heads are to be taken from a checkpoint of another family.
    """
    describe_start(recipe)  # now, while what it starts from is there
    fields = {**config_fields(recipe), "trained_on_phantoms": trained_on_phantoms}
    model = model_class(recipe.family)
    if recipe.timm_weights is not None:
        return model.from_timm(recipe.timm_weights, **fields)
    config = config_class(recipe.family)(backbone=recipe.backbone, **fields)
    if recipe.init_checkpoint is None:
        return model(config)
    if recipe.init_heads:
        return _load_all(model, config, recipe)
    built = model(config)
    _take_backbone(built, recipe.init_checkpoint)
    return built


def _load_all(model: Any, config: Any, recipe: Recipe) -> Any:
    """A model with all weights of a checkpoint that fit; heads that do not start anew, which is said on stderr."""
    base = find_base(recipe.init_checkpoint or "")
    kind = base.read_config().model_type
    if kind != config.model_type:
        raise ConfigError(
            f"init_heads: {base.name} is a checkpoint of type {kind!r}, and a {recipe.family} one of type "
            f"{config.model_type!r}; set init_heads to false, to take the backbone alone"
        )
    # What is loaded says where from; the checkpoint that is written one day must not name a folder of this machine.
    loaded, info = model.from_pretrained(
        base.folder, config=config, ignore_mismatched_sizes=True, output_loading_info=True, dtype=torch.float32
    )
    loaded.config._name_or_path = ""
    keys = (*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]))
    anew = sorted({key.rpartition(".")[0] for key in keys})
    if anew and os.environ.get("RANK", "0") == "0":
        print(f"{base.name} has no fitting weights for {', '.join(anew)}: these start anew.", file=sys.stderr)
    return loaded


def _take_backbone(model: Any, name: str) -> None:
    """Fills each backbone of a model with that of a checkpoint; with the global branch's of a FuseNet."""
    base = find_base(name)
    if getattr(base.read_config(), "members", None) is not None:
        raise CheckpointError(f"init_from: {base.name} is made of several models; name the folder of one of them")
    source = AutoModelForImageClassification.from_pretrained(base.folder)
    first = next(inner for inner in source.modules() if isinstance(inner, MuraModel))
    weights = first.backbone.state_dict()
    for inner in model.modules():
        if isinstance(inner, MuraModel):
            try:
                inner.backbone.load_state_dict(weights)
            except RuntimeError as error:
                raise CheckpointError(
                    f"init_from: the backbone of {base.name}, {first.config.backbone} with "
                    f"{first.config.backbone_kwargs or 'no'} options, does not fit {inner.config.backbone} with "
                    f"{inner.config.backbone_kwargs or 'no'} options; set backbone and backbone_kwargs alike"
                ) from error


def build_processor(recipe: Recipe) -> MuraImageProcessor:
    """The image processor of a recipe; where that names no normalisation, pretrained weights bring their own."""
    chosen: dict[str, Any] = {"image_mean": recipe.image_mean, "image_std": recipe.image_std}
    if recipe.timm_weights is not None:
        known = timm.get_pretrained_cfg(recipe.timm_weights)
        own = {"image_mean": list(known.mean), "image_std": list(known.std)} if known else {}
        chosen = {name: own.get(name) if value is None else value for name, value in chosen.items()}
    side = recipe.resize_size or recipe.image_size
    crop = {"height": recipe.image_size, "width": recipe.image_size}
    if side != recipe.image_size and not recipe.model.get("full_resolution"):
        chosen |= {"do_center_crop": True, "crop_size": crop}
    return MuraImageProcessor(
        size={"height": side, "width": side},
        resize_mode=recipe.resize_mode,
        enhance=recipe.enhance,
        crop_border=recipe.crop_border,
        **{name: value for name, value in chosen.items() if value is not None},
    )
