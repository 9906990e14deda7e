"""Configs from YAML files, from the command line, and from the records of earlier runs."""

import argparse
import copy
import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from ..common import did_you_mean
from ..errors import ConfigError
from .arguments import PART_OF, PARTS, TrainingConfig

_CONFIGS = Path(__file__).parent / "configs"
_FILE = re.compile(r"(?P<file>.+\.ya?ml)(:(?P<variant>.+))?")
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class _Source(NamedTuple):
    """A config in a file: the file itself, or one of its variants."""

    file: Path
    variant: str | None

    @property
    def name(self) -> str:
        return self.variant or self.file.stem

    def __str__(self) -> str:
        return str(self.file) if self.variant is None else f"{self.file}:{self.variant}"


def config_names(folders: Sequence[str | Path] = ()) -> list[str]:
    """Names of the configs in the package, and in the YAML files of further folders, with their variants."""
    names = set()
    for folder in (_CONFIGS, *map(Path, folders)):
        for file in sorted(folder.glob("*.yaml")):
            names |= {file.stem, *_variants(file)}
    return sorted(names)


def config_name(reference: str) -> str:
    """Name of the config that a name, a path, or "path.yaml:variant" refers to."""
    match = _FILE.fullmatch(reference)
    return reference if match is None else match["variant"] or Path(match["file"]).stem


def load_config(name_or_path: str | Path, folders: Sequence[str | Path] = (), **changes: Any) -> TrainingConfig:
    """Loads a config by name or from a YAML file.

    A YAML file holds flat keys, the fields of the argument dataclasses. `extends` names another config (a name, or a
    path relative to the file), whose values hold where the file has none; `model_kwargs` are merged key by key. Under
    `variants`, a file may hold several named configs, which share its other keys and may extend others.

    Args:
        name_or_path: Name of a config or variant in the package or in `folders`; a path that ends in .yaml or .yml; or
            "path.yaml:variant".
        folders: Further folders with YAML files.
        **changes: Fields that replace those of the file.

    Raises:
        ConfigError: If there is no such config, a key is unknown (the message names the most similar one), a value is
            wrong, or configs extend each other in a circle.
    """
    places = tuple(Path(folder).resolve() for folder in folders)
    source = _find(str(name_or_path), places, Path())
    values = {**_read(source, places, ()), **changes}
    searched = dict.fromkeys((source.file.parent.resolve(), *places))
    config = TrainingConfig.from_dict(values, name=source.name, where=str(source))
    return dataclasses.replace(config, folders=tuple(searched))


def _find(reference: str, folders: Sequence[Path], base: Path) -> _Source:
    """The file, and the variant, that a reference means; relative paths count from `base`, else from `folders`."""
    match = _FILE.fullmatch(reference)
    if match is not None:
        candidates = [base / match["file"], *(folder / match["file"] for folder in folders)]
        file = next((path for path in candidates if path.is_file()), candidates[0])
        if not file.is_file():
            raise ConfigError(f"there is no config {file}; give a .yaml file, or the name of a config")
        if match["variant"] and match["variant"] not in _variants(file):
            hint = did_you_mean(match["variant"], _variants(file))
            raise ConfigError(f"{file} has no variant {match['variant']!r}{hint}")
        return _Source(file, match["variant"])
    for folder in (_CONFIGS, *folders):
        if (folder / f"{reference}.yaml").is_file():
            return _Source(folder / f"{reference}.yaml", None)
        for file in sorted(folder.glob("*.yaml")):
            if reference in _variants(file):
                return _Source(file, reference)
    names = config_names(folders)
    hint = did_you_mean(reference, names) or f"; there are {', '.join(names)}"
    raise ConfigError(f"there is no config {reference!r}{hint}")


def _variants(file: Path) -> dict[str, Any]:
    content = _parse(file)
    return content.get("variants") or {} if isinstance(content, dict) else {}


def _parse(file: Path) -> Any:
    """Content of a YAML file, a copy that may be changed."""
    try:
        return copy.deepcopy(_parse_text(file.read_text()))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error


@functools.lru_cache(maxsize=64)
def _parse_text(text: str) -> Any:
    return _read_numbers(yaml.safe_load(text))


def _read(source: _Source, folders: Sequence[Path], above: tuple[_Source, ...]) -> dict[str, Any]:
    """The values of a config and of what it extends."""
    source = _Source(source.file.resolve(), source.variant)
    if source in above:
        raise ConfigError(f"{source} extends itself, through {', '.join(one.name for one in above)}; break the circle")
    content = _parse(source.file)
    if not isinstance(content, dict):
        raise ConfigError(f"{source.file} must hold keys and values")
    variants = content.pop("variants", None) or {}
    shared_base = content.pop("extends", None)
    own = variants[source.variant] if source.variant else {}
    if not isinstance(own, dict):
        raise ConfigError(f"{source} must hold keys and values")
    base = own.pop("extends", None) if source.variant else None
    for reference in (shared_base, base):
        if reference is not None and not isinstance(reference, str):
            raise ConfigError(f"{source}: extends is {reference!r}, but must be the name of a config or a .yaml file")

    def below(reference: str) -> dict[str, Any]:
        found = _Source(source.file, reference) if reference in variants else None
        found = found or _find(reference, (source.file.parent, *folders), source.file.parent)
        return _read(found, folders, (*above, source))

    if base is not None and base in variants:  # a variant has the shared keys already
        return _merge(below(base), own)
    shared = {} if shared_base is None else below(shared_base)
    return _merge(shared, {} if base is None else below(base), content, own)


def _merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Values of several layers, the last first; `model_kwargs` key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        kwargs = {**(merged.get("model_kwargs") or {}), **(layer.get("model_kwargs") or {})}
        merged |= layer | ({"model_kwargs": kwargs} if kwargs else {})
    return merged


def _read_numbers(value: Any) -> Any:
    """Reads 1e-4 as a number, which YAML takes for text."""
    if isinstance(value, dict):
        return {key: _read_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_read_numbers(one) for one in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def config_from_record(record: dict[str, Any]) -> TrainingConfig:
    """The config of an earlier run.

    Args:
        record: Content of a `training.json`: with `arguments`, or with a `recipe` of the first edition.
    """
    if "arguments" in record:
        values = dict(record["arguments"])
    else:
        values = dict(record["recipe"])
        values |= values.pop("augmentation", {})
        values["model_kwargs"] = values.pop("model", {})
        metric_loss = values.pop("metric_loss", None)
        if metric_loss:
            values |= {"metric_loss": metric_loss["name"], "metric_loss_options": metric_loss.get("options", {})}
        values["stages"] = [_without_defaults(stage, values) for stage in values.get("stages") or []]
        patches = values.pop("patches", None)
        if patches and patches["epochs"]:
            first = {
                **{name: patches[name] for name in ("epochs", "batch_size", "learning_rate", "augmentation")},
                "patch_size": patches["size"],
                "schedule": "cosine",
                "sampling": "balanced" if values.get("sampling") == "balanced" else "shuffled",
                "trains": values["stages"][0].get("trains") if values["stages"] else None,
            }
            values["stages"] = [
                _without_defaults(first, values),
                *(values["stages"] or [{"epochs": values["epochs"]}]),
            ]
    if values.get("init_from") == "bundled":
        values["init_from"] = "mura-phantom"
    if values.get("sampling") == "hard":  # of former versions
        values["sampling"] = "shuffled"
    return TrainingConfig.from_dict({key: value for key, value in values.items() if key in PART_OF or key == "name"})


def _without_defaults(stage: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A stage of an old record, without what is None or as in the config."""
    augmentation = stage.get("augmentation") or {}
    changed = {
        key: value
        for key, value in augmentation.items()
        if key in PART_OF and value != values.get(key) and not (stage.get("patch_size") and key == "random_crop")
    }
    kept = {key: value for key, value in stage.items() if value is not None and value != values.get(key)}
    kept |= {"epochs": stage["epochs"], **({"patch_size": stage["patch_size"]} if stage.get("patch_size") else {})}
    return {**kept, "augmentation": changed}


_Script = TypeVar("_Script")
_OF_ENSEMBLES = (
    "name", "family", "members", "router", "fit_member_weights", "seed", "fold", "n_folds", "dev_fraction",
    "calib_fraction", "stratified",
)  # fmt: skip
_SIMPLE: tuple[Any, ...] = (int, float, str, bool, list[str])


def read_command_line(
    argv: Sequence[str] | None, script: type[_Script], *, folders: Sequence[Path] = (), **options: Any
) -> tuple[_Script, TrainingConfig, list[str]]:
    """Reads the command line of a training script.

    Every field of a config is an option, and so are the fields of `script`. Options that are given replace the values
    of the config. Values with keys or lists of their own, such as `stages`, are given as YAML. "none" stands for None.

    Args:
        argv: Arguments without the program's name; those of this process if None.
        script: Dataclass of the script's own arguments. Uses `config` (name or path of the config) and `patch_epochs`
            (see `TrainingConfig.with_epochs`).
        folders: See `load_config`.
        **options: Of `argparse.ArgumentParser`.

    Returns:
        The script's arguments, the config, and sentences about surprising changes that `init_from` made to it.

    Raises:
        ConfigError: If the config is wrong, or an option would change nothing.
        CheckpointError: If there is no checkpoint `init_from`.
        SystemExit: If an option is unknown or malformed.
    """
    from .fine_tuning import changes_for

    parser = HfArgumentParser(script, allow_abbrev=False, **options)
    for kind in PARTS.values():
        parser._add_dataclass_arguments(_parsable(kind))
    for action in parser._actions:
        if action.dest in PART_OF:
            action.default = argparse.SUPPRESS
            if action.type is not None:
                action.type = _or_none(action.type)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        known = (option for action in parser._actions for option in action.option_strings)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{did_you_mean(unknown[0], known)}")
    given = vars(namespace)
    script_arguments = script(**{item.name: given[item.name] for item in dataclasses.fields(script)})  # type: ignore[arg-type]
    changes = {key: _read_value(key, value) for key, value in given.items() if key in PART_OF}

    config = load_config(given["config"], folders)
    messages: list[str] = []
    found: dict[str, Any] = {}
    if changes.get("init_from") is not None:
        wanted = config.replace(family="specialized") if changes.get("family") == "specialized" else config
        found, messages = changes_for(wanted, changes.pop("init_from"))
    family = found.get("family", config.model.family)
    for key in changes:
        if family == "ensemble" and key not in (*_OF_ENSEMBLES, "epochs"):
            raise ConfigError(
                f"--{key}: {config.name} is an ensemble; its members' configs set this: change "
                f"{', '.join(config.model.members)}"
            )
    epochs = changes.pop("epochs", None)
    if "model_kwargs" in changes:
        before = found.get("model_kwargs", config.model.model_kwargs)
        changes["model_kwargs"] = {**before, **(changes["model_kwargs"] or {})}
    config = config.replace(**found | changes)
    if epochs is not None or given.get("patch_epochs") is not None:
        config = config.with_epochs(epochs, given.get("patch_epochs"))
    return script_arguments, config, messages


def _parsable(kind: Any) -> type:
    """A dataclass like one of the arguments' that `HfArgumentParser` can read: other types are text.

    Fields without a help text are no options; the splits of an initial checkpoint set them.
    """
    hints, fields = get_type_hints(kind), []
    for item in dataclasses.fields(kind):
        if not item.metadata["help"]:
            continue
        hint = hints[item.name]
        inner = [one for one in get_args(hint) if one is not type(None)] if type(None) in get_args(hint) else [hint]
        simple = inner[0] in _SIMPLE or get_origin(inner[0]) is Literal
        default: Any = dataclasses.field(default=None, metadata={"help": item.metadata["help"].replace("%", "%%")})
        if simple and item.default is not dataclasses.MISSING:
            default.default = item.default
        fields.append((item.name, inner[0] | None if simple else str | None, default))
    namespace = {"_argument_group_name": f"{kind.__name__}: {(kind.__doc__ or '').partition('.')[0]}"}
    return dataclasses.make_dataclass(kind.__name__, fields, namespace=namespace)


def _or_none(read: Any) -> Any:
    """An argument's type that also reads "none"."""

    @functools.wraps(read)
    def read_or_none(text: str) -> Any:
        return None if text in ("none", "null") else read(text)

    return read_or_none


def _read_value(key: str, value: Any) -> Any:
    """A value of the command line; text is YAML where the field has another type."""
    hint = get_type_hints(PARTS[PART_OF[key]])[key]
    optional = type(None) in get_args(hint)
    takes_text = (
        str in (hint, *(get_args(hint) if optional else ())) or get_origin(hint) is Literal or hint == list[str]
    )
    if not isinstance(value, str) or takes_text:
        return value
    try:
        return _read_numbers(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ConfigError(f"--{key}: {value!r} is not valid YAML: {error}") from error
