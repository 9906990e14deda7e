"""Recipes: every choice of a training run in one YAML file."""

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml

from ..data import Augmentation
from ..errors import RecipeError

SAMPLINGS = ("shuffled", "balanced")
_RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class PatchStage:
    """A stage on patches around the findings, before that on whole pictures: a small finding then fills what is seen.

    From patches to whole pictures: Shen et al., "Deep learning to improve breast cancer detection on screening
    mammography", Scientific Reports 9:12495 (2019).

    Attributes:
        epochs: Passes over train, a patch a view; 0 leaves the stage out.
        size: Side of a patch in pixels of the processed picture.
        batch_size: Patches a step and process.
        learning_rate: Peak of AdamW's rate.
        augmentation: See `Augmentation`.
    """

    epochs: int = 0
    size: int = 112
    batch_size: int = 64
    learning_rate: float = 2e-3
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.size < 32 or self.batch_size < 1 or self.learning_rate <= 0:
            raise RecipeError(
                "patches: epochs must be 0 or above, size 32 or above, batch_size and learning_rate above 0"
            )
        if self.augmentation.random_crop or self.augmentation.resized_crop < 1:
            raise RecipeError("patches: they are crops already, so random_crop and resized_crop have no place there")


@dataclass(frozen=True)
class Recipe:
    """Settings of a run; the YAML file has the same keys.

    Attributes:
        name: What the recipe is called; the name of the package's own, or of the file.
        backbone: timm architecture.
        backbone_kwargs: Further arguments of `timm.create_model`.
        pretrained: Whether the backbone starts from timm's weights (needs them downloaded).
        image_size: Side in pixels of what the model sees.
        resize_size: Side in pixels that pictures are resized to before `image_size` is cropped from them: from the
            middle, in training anywhere with `random_crop`. `image_size` itself where None.
        resize_mode: "letterbox" or "squash".
        enhance: Filters of `MuraImageProcessor`, in their order.
        crop_border: Whether the collimation border is cropped.
        image_mean: Mean of the normalisation, one a channel; that of the pretrained weights, else ImageNet's, where
            None.
        image_std: Deviation beside it.
        head_dropout: Dropout in front of the heads.
        body_part_head: Whether to train a second head for the body part.
        body_part_weight: Weight of its loss.
        region_weight: Weight of the loss on the class activation map, for data with boxes; 0 leaves it out.
        class_weighting: Whether to weight the loss by the class shares of train.
        label_smoothing: Share of each label spread over both classes.
        epochs: Passes over train.
        batch_size: Views a step and process.
        learning_rate: Peak of AdamW's rate.
        weight_decay: Of AdamW, on matrices only.
        warmup_fraction: Share of the steps over which the rate rises; then it falls by a cosine to 0.
        max_gradient_norm: Gradients are clipped to it.
        precision: "fp32" or "bf16" (autocast).
        dev_fraction: Share of train patients for selection.
        calib_fraction: Share of train patients kept for calibration.
        stratified: Whether the cut keeps shares of body parts and labels alike.
        fold: Cross-validation: which of `n_folds` is `dev`; None for a cut by `dev_fraction`.
        n_folds: How many folds.
        sampling: "shuffled", or "balanced": as many views of each label in an epoch.
        seed: Of everything random.
        augmentation: See `Augmentation`.
        patches: See `PatchStage`; needs data with boxes.
    """

    name: str = "custom"
    backbone: str = "densenet169"
    backbone_kwargs: dict[str, Any] | None = None
    pretrained: bool = True
    image_size: int = 320
    resize_size: int | None = None
    resize_mode: str = "letterbox"
    enhance: list[Any] | None = None
    crop_border: bool = False
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    head_dropout: float = 0.0
    body_part_head: bool = True
    body_part_weight: float = 0.3
    region_weight: float = 0.0
    class_weighting: bool = True
    label_smoothing: float = 0.0
    epochs: int = 15
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    max_gradient_norm: float = 1.0
    precision: str = "fp32"
    dev_fraction: float = 0.08
    calib_fraction: float = 0.08
    stratified: bool = True
    fold: int | None = None
    n_folds: int = 5
    sampling: str = "shuffled"
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    patches: PatchStage = field(default_factory=PatchStage)

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise RecipeError(f"precision is {self.precision!r}: it must be fp32 or bf16")
        if self.epochs < 1 or self.batch_size < 1 or self.image_size < 1 or self.learning_rate <= 0:
            raise RecipeError("epochs, batch_size, image_size and learning_rate must be above 0")
        if self.sampling not in SAMPLINGS:
            raise RecipeError(f"sampling is {self.sampling!r}: it must be one of {', '.join(SAMPLINGS)}")
        if self.resize_size is not None and self.resize_size < self.image_size:
            raise RecipeError(
                f"resize_size is {self.resize_size}, but image_size, {self.image_size}, is to be cropped from it"
            )
        if self.augmentation.random_crop and self.resize_size in (None, self.image_size):
            raise RecipeError("random_crop has no room: give a resize_size above image_size")
        if self.patches.epochs and self.patches.size > self.image_size:
            raise RecipeError(
                f"patches: size is {self.patches.size}, but a patch cannot be larger than the picture, "
                f"image_size {self.image_size}"
            )

    def cut(self) -> dict[str, Any]:
        """How the data are cut, as options of `load_data`."""
        names = ("dev_fraction", "calib_fraction", "seed", "fold", "n_folds", "stratified")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the YAML file."""
        return dataclasses.asdict(self)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, **overrides: Any) -> Recipe:
    """Loads a recipe by name, or from a YAML file.

    Args:
        name_or_path: One of `recipe_names()`, or a path that ends in .yaml or .yml.
        **overrides: Fields that replace those of the file.

    Raises:
        RecipeError: If there is no such recipe, a key is unknown (the nearest known one is named) or a value is of
            the wrong type or out of range.
    """
    path = Path(name_or_path) if str(name_or_path).endswith((".yaml", ".yml")) else _RECIPES / f"{name_or_path}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RecipeError(
            f"no recipe {name_or_path!r}; there are {', '.join(recipe_names())}, or give a .yaml file"
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold keys and values")
    values = {"name": path.stem, **values, **overrides}
    return _build(Recipe, values, str(path))


_Kind = TypeVar("_Kind")


def _build(kind: type[_Kind], values: dict[str, Any], where: str) -> _Kind:
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = dict(values)
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise RecipeError(f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        inner: Any = fields[key].type
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            if not isinstance(value, dict | None):
                raise RecipeError(f"{where}: {key} is {value!r}, but must hold keys and values")
            values[key] = _build(inner, value or {}, f"{where}, {key}")
            continue
        if not _fits(value, inner):
            hint = "; YAML reads 1e-4 as text, write 1.0e-4" if inner is float and isinstance(value, str) else ""
            raise RecipeError(f"{where}: {key} is {value!r}, but must be {_name(inner)}{hint}")
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value from YAML is of an annotated type; whole numbers serve as floats, booleans never as numbers."""
    inner = get_args(kind)
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in inner)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict)
    if kind is Any:
        return True
    return type(value) in ((int, float) if kind is float else (kind,))


def _name(kind: Any) -> str:
    if isinstance(kind, UnionType):
        return " or ".join(_name(one) for one in get_args(kind))
    if get_origin(kind) is not None:
        return str(kind)
    return {float: "a number", type(None): "nothing"}.get(kind, f"of type {kind.__name__}")
