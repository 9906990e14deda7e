"""Model and image processor of a config, and the weights they start from: a checkpoint, timm's weights, or none."""

import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import ModelCard, snapshot_download
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.utils import logging

from ..common import BUNDLED, read_training
from ..errors import CheckpointError, ConfigError
from ..models import CLASSIFIERS, MuraBaseConfig, MuraImageProcessor, MuraModel
from ..models.backbone_mura import (
    IMAGENET_CREDIT,
    IMAGENET_WEIGHTS,
    find_in_cache,
    imagenet_file,
    imagenet_overlay,
    imagenet_package,
    imagenet_source,
)
from ..models.golden_mura import digest_weights
from .arguments import TrainingConfig
from .validation import FAMILIES, IMAGENET

_FORMER_NAMES = {"bundled": "mura-phantom"}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["config.json", "preprocessor_config.json", "training.json", "README.md", "*.safetensors*"]


def build_model(config: TrainingConfig, *, trained_on_phantoms: bool) -> Any:
    """Builds the model of a config with its initial weights, uncalibrated.

    Raises:
        CheckpointError: If the initial weights cannot be loaded, or belong to another backbone.
        ConfigError: If heads are to be loaded from a checkpoint of another family.
    """
    describe_base(config)  # now, while the base is there
    fields = {**config.model_config_fields(), "trained_on_phantoms": trained_on_phantoms}
    model_class = FAMILIES[config.model.family]
    weights = config.model.timm_weights
    if weights is not None:
        overlay = imagenet_overlay(weights) if config.model.has_packaged_weights else None
        model = model_class.from_timm(weights, pretrained_cfg_overlay=overlay, **fields)
        if overlay is not None and os.environ.get("RANK", "0") == "0":
            print(f"The backbone {weights} starts from {imagenet_source(weights)}.", file=sys.stderr)
        return model
    model_config = model_class.config_class(backbone=config.model.backbone, **fields)
    if config.model.init_checkpoint is None:
        return model_class(model_config)
    if config.model.init_heads:
        return _load_with_heads(model_class, model_config, config)
    model = model_class(model_config)
    _load_backbone(model, config.model.init_checkpoint)
    return model


def build_processor(config: TrainingConfig) -> MuraImageProcessor:
    """Builds the image processor of a config. Without `image_mean`, timm's weights bring their own normalization."""
    model = config.model
    chosen: dict[str, Any] = {"image_mean": model.image_mean, "image_std": model.image_std}
    if model.timm_weights is not None:
        known = timm.get_pretrained_cfg(model.timm_weights)
        own = {"image_mean": list(known.mean), "image_std": list(known.std)} if known else {}
        chosen = {name: own.get(name) if value is None else value for name, value in chosen.items()}
    side = model.resize_size or model.image_size
    if side != model.image_size and not model.model_kwargs.get("full_resolution"):
        crop = {"height": model.image_size, "width": model.image_size}
        chosen |= {"do_center_crop": True, "crop_size": crop}
    return MuraImageProcessor(
        size={"height": side, "width": side},
        resize_mode=model.resize_mode,
        enhance=model.enhance,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _load_with_heads(model_class: Any, model_config: Any, config: TrainingConfig) -> Any:
    """A model with all weights of a checkpoint that fit. Other heads start anew, which is said on stderr."""
    base = find_base(config.model.init_checkpoint or "")
    kind = base.read_config().model_type
    if kind != model_config.model_type:
        raise ConfigError(
            f"init_heads: {base.name} is a checkpoint of type {kind!r}, but a {config.model.family} has type "
            f"{model_config.model_type!r}; set init_heads to false to load the backbone only"
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # no table of keys; the sentence below says it
    try:
        loaded, info = model_class.from_pretrained(
            base.folder, config=model_config, ignore_mismatched_sizes=True, output_loading_info=True,
            dtype=torch.float32,
        )  # fmt: skip
    finally:
        logging.set_verbosity(verbosity)
    loaded.config._name_or_path = ""  # must not show a folder of this machine in the new checkpoint
    keys = (*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]))
    anew = sorted({key.rpartition(".")[0] for key in keys})
    if anew and os.environ.get("RANK", "0") == "0":
        print(f"{base.name} has no fitting weights for {', '.join(anew)}: these start anew.", file=sys.stderr)
    return loaded


def _load_backbone(model: Any, name: str) -> None:
    """Loads a checkpoint's backbone (of a FuseNet: its global branch) into each backbone of a model."""
    base = find_base(name)
    if getattr(base.read_config(), "members", None) is not None:
        raise CheckpointError(f"init_from: {base.name} consists of several models; give the folder of one of them")
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


@dataclass(frozen=True)
class Base:
    """A checkpoint that another one starts from."""

    folder: Path  # folder with its files; for the Hub, in its cache
    # Name in records and on cards: the Hub name, or for a folder the name on its card, else the folder's name.
    # Never a whole path.
    name: str
    revision: str | None  # commit on the Hub; None for folders

    def read_config(self) -> MuraBaseConfig:
        """Reads its configuration; raises `CheckpointError` if it is no checkpoint of this package."""
        try:
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # a foreign checkpoint may be wrong in any way
            raise CheckpointError(f"init_from: the config.json of {self.name} cannot be read: {error}") from error
        if config.model_type not in CLASSIFIERS:
            raise CheckpointError(
                f"init_from: {self.name} is a checkpoint of type {config.model_type!r}, not one of "
                f"{', '.join(CLASSIFIERS)}; give one that mura_hf trained, or timm:NAME or "
                "imagenet:NAME for a backbone of timm"
            )
        return config

    def read_training(self) -> dict[str, Any]:
        """Reads its `training.json`; empty if it has none."""
        return read_training(self.folder)


def find_base(name: str) -> Base:
    """Finds a checkpoint: a bundled one by its name, a folder, or a Hub name (with "@revision" if wanted), which is
    downloaded.

    Raises:
        CheckpointError: If there is none.
    """
    folder = BUNDLED.get(_FORMER_NAMES.get(name, name), Path(name))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            inner = folder / "checkpoint"
            way = f"give {inner}" if inner.is_dir() else "give the folder of a checkpoint"
            raise CheckpointError(f"init_from: {folder} has no config.json, so it is no checkpoint; {way}")
        return Base(folder, _name_of(folder), None)
    repo, _, revision = name.partition("@")
    if not _HUB_NAME.fullmatch(repo):
        raise CheckpointError(
            f"init_from: {name} is neither a folder on this machine nor a Hub name such as user/model; "
            f"{', '.join(BUNDLED)} come with the package, timm:NAME and imagenet:NAME are backbones of timm"
        )
    try:
        downloaded = Path(snapshot_download(repo, revision=revision or None, allow_patterns=_FILES))
    except Exception as error:  # the network may fail in any way
        raise CheckpointError(
            f"init_from: {name} is no folder on this machine, and cannot be downloaded from the Hub "
            f"({type(error).__name__}); check the name, the network and `hf auth login`"
        ) from error
    return Base(downloaded, repo, downloaded.name)


def describe_base(config: TrainingConfig) -> dict[str, Any] | None:
    """What `training.json` says about the initial weights.

    Returns:
        None if everything is new, else `name`; `revision`, the commit on the Hub, or None; `sha256` of the weights
        (None for timm's); `heads`, whether heads are loaded too; `trained_on`, the data sets of the base and of the
        checkpoints it started from, each with `key` and `name`, None if not known. For ImageNet weights of a package
        also `package`, `license` and `credit`.
    """
    if config.model.family == "ensemble":
        return None  # its members start as their own configs say
    weights = config.model.timm_weights
    packaged = _find_packaged(config)
    if packaged is not None:
        return {
            "name": IMAGENET + packaged, "revision": None, "sha256": IMAGENET_WEIGHTS[packaged], "heads": False,
            "trained_on": [{"key": "imagenet", "name": "ImageNet"}], "package": imagenet_package(packaged),
            "license": "apache-2.0", "credit": IMAGENET_CREDIT,
        }  # fmt: skip
    if weights is not None:
        known = timm.get_pretrained_cfg(weights)
        tag = f".{known.tag}" if known is not None and known.tag else ""
        name = f"timm/{weights.partition('.')[0]}{tag}"
        return {"name": name, "revision": None, "sha256": None, "heads": False, "trained_on": None}
    if config.model.init_checkpoint is None:
        return None
    return {**_describe(config.model.init_checkpoint), "heads": config.model.init_heads}


def _find_packaged(config: TrainingConfig) -> str | None:
    """Name of initial weights from a package: those that were asked for, or those that stand in for timm's."""
    weights = config.model.timm_weights
    if weights is None or config.model.has_packaged_weights:
        return weights
    name = weights.removesuffix(".in1k")
    if name not in IMAGENET_WEIGHTS or find_in_cache(timm.get_pretrained_cfg(weights).to_dict()):
        return None
    try:
        imagenet_file(name)
    except CheckpointError:
        return None
    return name


@lru_cache(maxsize=4)  # the folder may change during the run
def _describe(name: str) -> dict[str, Any]:
    base = find_base(name)
    training, phantoms = base.read_training(), base.read_config().trained_on_phantoms
    data = training.get("data", {})
    trained_on = None
    if data or phantoms:
        own = {"key": data.get("key", "phantoms" if phantoms else "mura"), "name": data.get("name", "phantoms")}
        before = (training.get("base") or {}).get("trained_on") or []
        trained_on = [own, *(one for one in before if one != own)]
    digest = digest_weights(base.folder)
    return {"name": base.name, "revision": base.revision, "sha256": digest, "trained_on": trained_on}


def _name_of(folder: Path) -> str:
    """Name on the card of a checkpoint folder, else the folder's name (for a run's checkpoint, that of the run)."""
    try:
        named = ModelCard.load(folder / "README.md").data.model_name
    except Exception:  # no card, or a malformed one
        named = None
    if named:
        return str(named)
    place = folder.resolve()
    return place.parent.name if place.name == "checkpoint" else place.name
