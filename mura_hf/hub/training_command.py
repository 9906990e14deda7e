"""The command that trains a checkpoint again, for its card."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from ..training import load_recipe, recipe_names

_OF_THEIR_OWN = ("name", "seed", "fold")  # have options, or are none of a setting's
_OF_THE_BASE = (
    "family", "backbone", "backbone_kwargs", "pretrained", "init_from", "init_heads", "head_dropout",
    "body_part_head", "model",
    "image_size", "resize_size", "resize_mode", "enhance", "crop_border", "image_mean", "image_std", "level",
    "augmentation.random_crop", "metric_loss", "metric_weight", "stages",
)  # fmt: skip
"""What `--init_from` sets by itself."""

_WHOLE = ("model", "backbone_kwargs", "metric_loss")  # whose keys are free
_CHOSEN = ("body_parts", "regions", "abnormal")
_FOLDERS = {"mura": "MURA-v1.1", "phantoms": "data/phantoms", "fracatlas": "FracAtlas", "grazpedwri": "GRAZPEDWRI-DX"}


def data_folder(training: dict[str, Any]) -> str:
    """What `--data_dir` is on a card: the dataset of the Hub, else a folder called like the data.

    Args:
        training: Content of `training.json`.
    """
    data = training["data"]
    key = data.get("key", "phantoms" if data.get("made_with") else "mura")
    return str(data.get("dataset") or _FOLDERS.get(key, "my_films"))


def training_command(training: dict[str, Any]) -> str:
    """`scripts/train.py` with the options that give a run's recipe, `--data_dir` and `--output_dir` included.

    What the run had changed in the package's recipe of that name stands behind `--set`. Of a recipe in a file of one's
    own, named by it, a card can tell no more than that: the whole of it stands in `training.json`.

    Args:
        training: Content of `training.json`.
    """
    recipe, data, base = training["recipe"], training["data"], training.get("base")
    known = recipe["name"] in recipe_names()
    options = ["--recipe", recipe["name"] if known else f"{recipe['name']}.yaml"]
    own = json.loads(json.dumps(load_recipe(recipe["name"]).to_dict())) if known else {}
    aside: tuple[str, ...] = _OF_THEIR_OWN
    if recipe.get("init_heads") and base:
        options += ["--init_from", base["name"] + (f"@{base['revision']}" if base["revision"] else "")]
        aside = (*aside, *_OF_THE_BASE)
    if known and recipe.get("family") == "specialized" != own["family"]:
        options.append("--each_body_part")
        aside = (*aside, "family")
    if known:
        changed = [f"{key}={_as_yaml(value)}" for key, value in _changes(own, recipe) if key not in aside]
        options += ["--set", *changed] if changed else []
    elif not (recipe.get("stages") or training.get("members")):
        options += ["--epochs", str(recipe["epochs"]), "--patch_epochs", str(recipe["patches"]["epochs"])]
    options += ["--seed", str(recipe["seed"])]
    if recipe.get("fold") is not None:
        options += ["--fold", str(recipe["fold"])]
    for name in _CHOSEN:
        if data.get(name, "all") != "all":
            options += [f"--{name}", *data[name]]
    several = training["processes"] > 1
    start = ["torchrun", "--nproc_per_node", str(training["processes"])] if several else ["python"]
    place = ["--data_dir", data_folder(training), "--output_dir", f"runs/{recipe['name']}"]
    cpu = training["device"] == "cpu"
    words = [*start, "scripts/train.py", *options, *place, *["--cpu"] * cpu]
    return "ACCELERATE_USE_CPU=true " * (cpu and several) + shlex.join(words)


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1_000_000).removesuffix("...\n").strip()


def _changes(own: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Keys in the form of `--set`, with their values now, of what differs; keys that only one knows do not count."""
    if isinstance(own, dict) and isinstance(now, dict) and path not in _WHOLE:
        for key in own:
            if key in now:
                yield from _changes(own[key], now[key], f"{path}.{key}".removeprefix("."))
    elif isinstance(own, list) and isinstance(now, list) and path == "stages" and len(own) == len(now):
        for number, (one, other) in enumerate(zip(own, now, strict=True), 1):
            yield from _changes(one, other, f"{path}.{number}")
    elif own != now:
        yield path, now
