"""Model and image processor of a recipe."""

from pathlib import Path
from typing import Any

import timm

from ..errors import CheckpointError
from ..models import MuraImageProcessor, MuraModel
from .families import config_class, config_fields, model_class
from .recipe import Recipe

_BUNDLED = Path(__file__).parents[1] / "resources" / "phantom"


def build_model(recipe: Recipe, *, trained_on_phantoms: bool) -> Any:
    """The untrained model of a recipe.

    Raises:
        CheckpointError: If there are no weights to start from, or they are of another backbone.
    """
    fields = {**config_fields(recipe), "trained_on_phantoms": trained_on_phantoms}
    model = model_class(recipe.family)
    if recipe.pretrained:
        return model.from_timm(recipe.backbone, **fields)
    built = model(config_class(recipe.family)(backbone=recipe.backbone, **fields))
    if recipe.start_from is not None:
        _take_backbone(built, recipe.start_from)
    return built


def _take_backbone(model: Any, name: str) -> None:
    """Fills each backbone of a model with that of a checkpoint."""
    source = MuraModel.from_pretrained(_BUNDLED if name == "bundled" else name)
    weights = source.backbone.state_dict()
    for inner in model.modules():
        if isinstance(inner, MuraModel):
            try:
                inner.backbone.load_state_dict(weights)
            except RuntimeError as error:
                raise CheckpointError(
                    f"start_from: the backbone of {name}, {source.config.backbone} with "
                    f"{source.config.backbone_kwargs or 'no'} options, does not fit {inner.config.backbone} with "
                    f"{inner.config.backbone_kwargs or 'no'} options; set backbone and backbone_kwargs alike"
                ) from error


def build_processor(recipe: Recipe) -> MuraImageProcessor:
    """The image processor of a recipe; where that names no normalisation, pretrained weights bring their own."""
    chosen: dict[str, Any] = {"image_mean": recipe.image_mean, "image_std": recipe.image_std}
    if recipe.pretrained:
        known = timm.get_pretrained_cfg(recipe.backbone)
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
