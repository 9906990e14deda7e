"""Where a run's weights start: a checkpoint, or timm's weights."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import ModelCard, snapshot_download
from transformers import AutoConfig

from ..common import BUNDLED
from ..errors import CheckpointError
from ..models import CLASSIFIERS, MuraBaseConfig
from ..models.golden_mura import digest_weights
from .recipe import Recipe

PHANTOM = "bundled"
"""Another name of the package's mura-phantom, as recipes have it."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["config.json", "preprocessor_config.json", "training.json", "README.md", "*.safetensors*"]


@dataclass(frozen=True)
class Base:
    """A checkpoint that another one starts from.

    Attributes:
        folder: Where its files lie; those of the Hub in its cache.
        name: What records and cards call it: the Hub name; of a folder the name on its card, else the folder's own.
            Never a whole path.
        revision: Commit on the Hub; None for folders.
    """

    folder: Path
    name: str
    revision: str | None

    def read_config(self) -> MuraBaseConfig:
        """Its configuration.

        Raises:
            CheckpointError: If it is none of ours.
        """
        try:
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # a checkpoint comes from strangers and may be wrong in any way
            raise CheckpointError(f"init_from: the config.json of {self.name} cannot be read: {error}") from error
        if config.model_type not in CLASSIFIERS:
            raise CheckpointError(
                f"init_from: {self.name} is a checkpoint of type {config.model_type!r}, none of "
                f"{', '.join(CLASSIFIERS)}; name one that mura_hf trained, or timm:NAME for a backbone of timm"
            )
        return config

    def read_training(self) -> dict[str, Any]:
        """Its `training.json`; empty where there is none."""
        file = self.folder / "training.json"
        return json.loads(file.read_text()) if file.is_file() else {}


def find_base(name: str) -> Base:
    """Finds a checkpoint: one of the package's by its name (`PHANTOM` is mura-phantom), a folder, or a Hub name, with
    "@revision" where wanted, which is downloaded.

    Raises:
        CheckpointError: If there is none.
    """
    folder = BUNDLED.get("mura-phantom" if name == PHANTOM else name, Path(name))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            inner = folder / "checkpoint"
            way = f"name {inner}" if inner.is_dir() else "name the folder of a checkpoint"
            raise CheckpointError(f"init_from: {folder} has no config.json, so it is no checkpoint; {way}")
        return Base(folder, _name_of(folder), None)
    repo, _, revision = name.partition("@")
    if not _HUB_NAME.fullmatch(repo):
        raise CheckpointError(
            f"init_from: {name} is neither a folder on this machine nor a Hub name such as user/model; "
            f"{', '.join(BUNDLED)} come with the package, timm:NAME is a backbone of timm"
        )
    try:
        place = Path(snapshot_download(repo, revision=revision or None, allow_patterns=_FILES))
    except Exception as error:  # whatever the network does
        raise CheckpointError(
            f"init_from: {name} is no folder on this machine, and cannot be had from the Hub "
            f"({type(error).__name__}); check the name, the network and `hf auth login`"
        ) from error
    return Base(place, repo, place.name)


def describe_start(recipe: Recipe) -> dict[str, Any] | None:
    """What `training.json` says of the weights that a run starts from; None where everything is new.

    Returns:
        `name`; `revision`, the commit on the Hub, or None; `sha256` of the weights (None of timm's); `heads`, whether
        heads were to be taken too; `trained_on`, a list of what is known of its data and of those that it started
        from itself, each with `key` and `name`; None where nothing is known.
    """
    if recipe.family == "ensemble":
        return None  # its members start as their own recipes say
    if recipe.timm_weights is not None:
        known = timm.get_pretrained_cfg(recipe.timm_weights)
        tag = f".{known.tag}" if known is not None and known.tag else ""
        name = f"timm/{recipe.timm_weights.partition('.')[0]}{tag}"
        return {"name": name, "revision": None, "sha256": None, "heads": False, "trained_on": None}
    if recipe.init_checkpoint is None:
        return None
    return {**_describe(recipe.init_checkpoint), "heads": recipe.init_heads}


@lru_cache(maxsize=4)  # what a run started from stays so, whatever becomes of the folder meanwhile
def _describe(name: str) -> dict[str, Any]:
    base = find_base(name)
    return {
        "name": base.name,
        "revision": base.revision,
        "sha256": digest_weights(base.folder),
        "trained_on": _trained_on(base),
    }


def _trained_on(base: Base) -> list[dict[str, str]] | None:
    training, phantoms = base.read_training(), base.read_config().trained_on_phantoms
    data = training.get("data", {})
    if not data and not phantoms:
        return None
    own = {"key": data.get("key", "phantoms" if phantoms else "mura"), "name": data.get("name", "phantoms")}
    before = (training.get("base") or {}).get("trained_on") or []
    return [own, *(one for one in before if one != own)]


def _name_of(folder: Path) -> str:
    """What the card of a folder calls it; else the folder's name, of a run's checkpoint that of the run."""
    card = folder / "README.md"
    if card.is_file():
        try:
            named = ModelCard.load(card).data.model_name
        except Exception:  # whatever stands there, it names nothing
            named = None
        if named:
            return str(named)
    place = folder.resolve()
    return place.parent.name if place.name == "checkpoint" else place.name
