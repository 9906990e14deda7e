"""The command that trains a checkpoint again, for its card."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from ..training import load_recipe, recipe_names

_OF_THEIR_OWN = ("name", "seed", "fold", "family")  # have options, or are none of a setting's
_WHOLE = ("model", "backbone_kwargs", "metric_loss")  # whose keys are free
_CHOSEN = ("body_parts", "regions", "abnormal")
_FOLDERS = {"mura": "MURA-v1.1", "phantoms": "data/phantoms", "fracatlas": "FracAtlas", "grazpedwri": "GRAZPEDWRI-DX"}


def data_folder(training: dict[str, Any]) -> str:
    """What `--data_dir` is on a card: the dataset of the Hub, else a folder called like the data.

    Args:
        training: Content of `training.json`.
    """
    data = training["data"]
    key = data.get("key", "phantoms" if data.get("made_with") else "")
    return str(data.get("dataset") or _FOLDERS.get(key, "my_films"))


def training_command(training: dict[str, Any]) -> str:
    """`scripts/train.py` with the options that give a run's recipe, `--data_dir` and `--output_dir` included.

    What the run had changed in the package's recipe of that name stands behind `--set`. That cannot be told of a run
    which was fine-tuned with `--init_from`, whose recipe is the checkpoint's in part, nor of a recipe in a file of
    one's own: the whole of it stands in `training.json`.

    Args:
        training: Content of `training.json`.
    """
    recipe, data = training["recipe"], training["data"]
    options = ["--recipe", recipe["name"]]
    if recipe.get("init_heads"):
        start = recipe["init_from"]
        options += ["--init_from", start if start == "bundled" else training["base"]["name"]]
        options += _epochs(training)
    elif recipe["name"] in recipe_names():
        own = json.loads(json.dumps(load_recipe(recipe["name"]).to_dict()))
        if recipe.get("family", own["family"]) != own["family"]:
            options.append("--each_body_part")
        changed = [f"{key}={json.dumps(value)}" for key, value in _changes(own, recipe) if key not in _OF_THEIR_OWN]
        options += ["--set", *changed] if changed else []
    else:
        options += _epochs(training)
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


def _epochs(training: dict[str, Any]) -> list[str]:
    recipe = training["recipe"]
    if recipe.get("stages") or training.get("members"):
        return []
    return ["--epochs", str(recipe["epochs"]), "--patch_epochs", str(recipe["patches"]["epochs"])]


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
