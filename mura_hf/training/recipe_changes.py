"""Changes of a recipe from the command line."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from ..errors import ConfigError
from .fine_tuning import take_over
from .recipe import Recipe
from .recipe_reading import build_recipe

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_OF_ENSEMBLES = (
    "name", "family", "members", "router", "fit_member_weights", "seed", "fold", "n_folds", "dev_fraction",
    "calib_fraction", "stratified",
)  # fmt: skip


def change_recipe(
    recipe: Recipe,
    settings: Sequence[str] = (),
    *,
    init_from: str | None = None,
    each_body_part: bool = False,
) -> tuple[Recipe, list[str]]:
    """The recipe with what a checkpoint decides, then with single values replaced.

    Args:
        recipe: As it was loaded.
        settings: "KEY=VALUE", the value in YAML. Dots lead into a key's own keys ("augmentation.rotation=10",
            "model.head_layers=[256]"), numbers from 1 on into a list ("stages.2.epochs=3").
        init_from: Where weights are to start; see `take_over`.
        each_body_part: Whether the recipe's classifier is to be trained for each body part: family specialized.

    Returns:
        The recipe, and sentences about what a checkpoint changed that may surprise.

    Raises:
        ConfigError: If a setting is none, a key is unknown (the nearest known one is named), a value is of the wrong
            type or out of range, or a setting would change nothing.
        CheckpointError: If there is no such checkpoint.
    """
    taken, told = take_over(recipe, init_from) if init_from is not None else ({}, [])
    values = {**recipe.to_dict(), **taken}
    if each_body_part:
        if values["family"] not in ("classifier", "specialized"):
            raise ConfigError(
                f"a model for each body part is made of classifiers, and {recipe.name} makes a {values['family']}; "
                "choose another recipe"
            )
        values["family"] = "specialized"
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {setting}: write KEY=VALUE, such as learning_rate=1e-4 or augmentation.rotation=10"
            )
        _put(values, key.strip().split("."), _read(text, setting), setting)
        _check_use(recipe, values, key.strip().split("."), setting)
    where = " ".join(
        [recipe.name, *([f"--init_from {init_from}"] if init_from else []), *(["--set"] * bool(settings))]
    )
    return build_recipe(values, where), told


def _read(text: str, setting: str) -> Any:
    """A value in YAML; 1e-4 is a number here, whatever YAML says."""
    if _NUMBER.fullmatch(text.strip()):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting}: the value is not valid YAML: {error}") from error


def _put(values: dict[str, Any], path: Sequence[str], value: Any, setting: str) -> None:
    """Sets a value in nested keys and lists."""
    inner: Any = values
    for place, key in enumerate(path):
        last = place == len(path) - 1
        if isinstance(inner, list):
            if not key.isdecimal() or not 1 <= int(key) <= len(inner):
                raise ConfigError(
                    f"--set {setting}: {'.'.join(path[:place])} is a list of {len(inner)}; name its place, from 1 on"
                )
            held: Any = int(key) - 1
        elif isinstance(inner, dict):
            held = key
        else:
            raise ConfigError(f"--set {setting}: {'.'.join(path[:place])} is {inner!r}, which has no keys of its own")
        if last:
            inner[held] = value
        else:
            below = inner[held] if isinstance(inner, list) else inner.get(held)
            # A key that is not set yet, such as metric_loss, has none; a typo is refused as the recipe is built.
            inner[held] = {} if below is None else dict(below) if isinstance(below, dict) else below
            inner = inner[held]


def _check_use(recipe: Recipe, values: dict[str, Any], path: Sequence[str], setting: str) -> None:
    """Refuses what would change nothing."""
    if values["family"] == "ensemble" and path[0] not in _OF_ENSEMBLES and path[0] in vars(recipe):
        raise ConfigError(
            f"--set {setting}: {recipe.name} is an ensemble, whose members' recipes say this: change those, "
            f"{', '.join(recipe.members)}"
        )
    if path == ["epochs"] and values["stages"]:
        raise ConfigError(
            f"--set {setting}: {recipe.name} has stages with epochs of their own; use --epochs for all of them, or "
            "--set stages.1.epochs=... for one"
        )
