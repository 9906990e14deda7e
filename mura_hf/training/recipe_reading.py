"""Recipes from YAML files."""

import dataclasses
import difflib
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml

from ..errors import ConfigError
from .recipe import Recipe

_RECIPES = Path(__file__).parent / "recipes"
_MERGED = ("augmentation", "model", "patches")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, **overrides: Any) -> Recipe:
    """Loads a recipe by name, or from a YAML file.

    The key `extends` names another recipe, whose keys hold where the file names none; `augmentation`, `model` and
    `patches` are taken over key by key, everything else whole. A path to a file counts from the file's own folder.

    Args:
        name_or_path: One of `recipe_names()`, or a path that ends in .yaml or .yml.
        **overrides: Fields that replace those of the file.

    Raises:
        ConfigError: If there is no such recipe, a key is unknown (the nearest known one is named), a value is of
            the wrong type or out of range, or recipes extend each other in a circle.
    """
    path = _find(name_or_path, Path())
    values = {"name": path.stem, **_read(path, ()), **overrides}
    return build_recipe(values, str(path))


def build_recipe(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from keys and values, as a YAML file holds them.

    Args:
        values: By key.
        where: What messages call it.

    Raises:
        ConfigError: As `load_recipe`.
    """
    return _build(Recipe, values, where)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with another number of epochs on whole views, in each of its stages.

    Raises:
        ConfigError: If it is an ensemble, whose members' recipes say how long they train.
    """
    if recipe.family == "ensemble":
        raise ConfigError(
            f"{recipe.name} is an ensemble, whose members' recipes say how long each trains: change those, "
            f"{', '.join(recipe.members)}"
        )
    stages = [
        stage if stage.patch_size is not None else dataclasses.replace(stage, epochs=epochs) for stage in recipe.stages
    ]
    return dataclasses.replace(recipe, epochs=epochs, stages=stages)


def _find(name_or_path: str | Path, folder: Path) -> Path:
    if str(name_or_path).endswith((".yaml", ".yml")):
        return folder / name_or_path
    return _RECIPES / f"{name_or_path}.yaml"


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a file and of what it extends."""
    if path.resolve() in above:
        raise ConfigError(f"{path} extends itself, through {', '.join(one.stem for one in above)}; break the circle")
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        if path.parent != _RECIPES:
            raise ConfigError(
                f"no recipe {path}; give a .yaml file that can be read, or the name of a recipe"
            ) from error
        near = difflib.get_close_matches(path.stem, recipe_names(), n=1)
        told = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(recipe_names())}"
        raise ConfigError(f"no recipe {path.stem!r}; {told}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends is {base!r}, but must be the name of a recipe or of a .yaml file")
    below = _read(_find(base, path.parent), (*above, path.resolve()))
    below.pop("name", None)
    for key in _MERGED:
        if isinstance(values.get(key), dict) and isinstance(below.get(key), dict):
            values[key] = {**below[key], **values[key]}
    return {**below, **values}


_Kind = TypeVar("_Kind")


def _build(kind: type[_Kind], values: dict[str, Any], where: str) -> _Kind:
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    needed = [
        name
        for name, item in fields.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING and name not in values
    ]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise ConfigError(f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if needed:
        raise ConfigError(f"{where}: {', '.join(needed)} is missing")
    values = {key: _value(value, fields[key].type, key, where) for key, value in values.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _value(value: Any, kind: Any, key: str, where: str) -> Any:
    """A value of an annotated type from what YAML gave."""
    inner = _dataclass_in(kind)
    if inner is not None:
        if get_origin(kind) is list:
            if not isinstance(value, list | None):
                raise ConfigError(f"{where}: {key} is {value!r}, but must be a list")
            return [_value(one, inner, f"{key} {n}", where) for n, one in enumerate(value or [], 1)]
        if value is None and isinstance(kind, UnionType):
            return None
        if dataclasses.is_dataclass(value):  # an override
            return value
        if not isinstance(value, dict | None):
            raise ConfigError(f"{where}: {key} is {value!r}, but must hold keys and values")
        return _build(inner, value or {}, f"{where}, {key}")
    if not _fits(value, kind):
        hint = "; YAML reads 1e-4 as text, write 1.0e-4" if _takes_numbers(kind) and isinstance(value, str) else ""
        raise ConfigError(f"{where}: {key} is {value!r}, but must be {_name(kind)}{hint}")
    return value


def _dataclass_in(kind: Any) -> Any:
    """The dataclass that a type is, has as an alternative, or lists; None where there is none."""
    inner = [one for one in (kind, *get_args(kind)) if dataclasses.is_dataclass(one) and isinstance(one, type)]
    return inner[0] if inner else None


def _takes_numbers(kind: Any) -> bool:
    return kind is float or float in get_args(kind)


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
