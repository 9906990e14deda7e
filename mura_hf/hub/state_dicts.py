"""Weights as others save them: read without running anything, unwrapped, and named as timm names them."""

import pickle
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Entries under which training scripts keep the weights beside other things."""

PREFIXES = ("module.", "model.", "backbone.", "features_extractor.", "net.", "network.", "_orig_mod.")
"""What wrappers put in front of every name."""

_FILTERS = ("checkpoint_filter_fn", "_filter_torchvision_pretrained", "_filter_fn", "pretrained_filter_fn")

_CONVNEXT_BLOCK = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}


class Weights(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: Name in the file -> tensor.
        others: What lay in the file beside the weights -> why it is no weight.
    """

    tensors: dict[str, torch.Tensor]
    others: dict[str, str]


def read_state_dict(file: Path) -> Weights:
    """Reads a `.pth` or `.safetensors` file; pickled objects are refused, and no code in the file is run.

    Raises:
        CheckpointError: If there is no such file, it is damaged, needs pickled objects, or holds no weights.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is no file on this machine; give one with weights, such as best.pth")
    if file.suffix == ".safetensors":
        try:
            return Weights(load_file(file), {})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is no safetensors file that can be read: {error}") from error
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CheckpointError(
            f"{file} holds pickled objects{f' ({needed[1]})' if needed else ''} or is damaged. Reading such objects "
            "can run any code, so it is refused, and nothing was run. Whoever made the file can save its weights "
            "alone, with torch.save(model.state_dict(), 'weights.pth'); so can you, where its classes are installed, "
            "if you trust it"
        ) from error
    except Exception as error:  # a damaged file may fail in any way
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{file} cannot be read as a file of torch.save: {reason}") from error
    return _unwrap(held, file)


def _unwrap(held: Any, file: Path) -> Weights:
    others: dict[str, str] = {}
    where = ""
    while isinstance(held, Mapping):
        tensors = {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}
        inner = next((name for name in WRAPPERS if isinstance(held.get(name), Mapping)), None)
        beside = f"beside the weights, which lie under {inner!r}" if inner else "no weight"
        for name, value in held.items():
            if name != inner and (inner is not None or not isinstance(value, torch.Tensor)):
                others[where + str(name)] = f"{beside} ({type(value).__name__})"
        if inner is None:
            if not tensors:
                break
            return Weights(tensors, others)
        held, where = held[inner], f"{where}{inner}."
    raise CheckpointError(
        f"{file} holds no state dict, neither by itself nor under {', '.join(WRAPPERS)}; save one with "
        "torch.save(model.state_dict(), 'weights.pth')"
    )


def bare_name(name: str) -> str:
    """A weight's name without what wrappers put in front."""
    while (found := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)) is not None:
        name = name.removeprefix(found)
    return name


def strip_prefixes(names: list[str], architecture: str) -> dict[str, str]:
    """Name in the file -> name without what wrappers put in front, the architecture's own name among them.

    Raises:
        CheckpointError: If two names become one.
    """
    bare = {name: bare_name(bare_name(name).removeprefix(f"{architecture}.")) for name in names}
    twice = sorted({short for short in bare.values() if list(bare.values()).count(short) > 1})
    if twice:
        raise CheckpointError(
            f"the weights hold several networks, or copies of one: without prefixes, {', '.join(twice[:4])} "
            "stand for more than one weight; save the network that is meant by itself"
        )
    return bare


def rename_for_timm(
    tensors: dict[str, torch.Tensor], backbone: Any, architecture: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights named and shaped as timm's architecture has them, by timm's own conversion where it has one.

    Args:
        tensors: By name, without prefixes.
        backbone: Of the architecture, as timm builds it.
        architecture: Its name.

    Returns:
        The weights, and for each the name that it had; one that timm computed from several has none.
    """
    # torchvision before 2018 called norm1 of a DenseNet norm.1; timm's conversion forgets the counters among them.
    counters = {
        name: re.sub(r"(denselayer\d+\.norm)\.(\d)(\.num_batches_tracked)$", r"\1\2\3", name) for name in tensors
    }
    tensors = {counters[name]: value for name, value in tensors.items()}
    own = {name: value.clone() for name, value in _rename_convnext(tensors, architecture).items()}
    before = dict(zip(own, counters, strict=True))
    origins = {value.untyped_storage().data_ptr(): before[name] for name, value in own.items() if value.numel()}
    convert = _find_filter(architecture)
    renamed = own if convert is None else convert(dict(own), backbone)
    named = {name: origins.get(value.untyped_storage().data_ptr()) for name, value in renamed.items()}
    return renamed, {name: origin for name, origin in named.items() if origin is not None}


def _find_filter(architecture: str) -> Callable[..., dict[str, torch.Tensor]] | None:
    """timm's conversion of weights from elsewhere for an architecture; it is private to timm's modules."""
    module = sys.modules[timm.model_entrypoint(architecture.partition(".")[0]).__module__]
    for name in _FILTERS:
        convert = getattr(module, name, None)
        if convert is not None:
            takes_model = convert.__code__.co_argcount > 1
            return convert if takes_model else lambda tensors, backbone, convert=convert: convert(tensors)
    return None


def _rename_convnext(tensors: dict[str, torch.Tensor], architecture: str) -> dict[str, torch.Tensor]:
    """torchvision's names of a ConvNeXt as timm's, which timm has no conversion for; others stay as they are."""
    if not architecture.startswith("convnext") or "features.0.0.weight" not in tensors:
        return tensors
    renamed = {}
    for name, value in tensors.items():
        short = re.sub(r"^features\.0\.", "stem.", name)
        short = re.sub(r"^classifier\.0\.", "head.norm.", short)
        short = re.sub(r"^classifier\.2\.", "head.fc.", short)
        if found := re.match(r"features\.(\d+)\.(\d+)\.(.+)", short):
            stage, place, rest = int(found[1]), found[2], found[3]
            if stage % 2 == 0:
                short = f"stages.{stage // 2}.downsample.{place}.{rest}"
            else:
                part, _, last = rest.removeprefix("block.").partition(".")
                inner = "gamma" if rest == "layer_scale" else f"{_CONVNEXT_BLOCK.get(part, part)}.{last}"
                short = f"stages.{stage // 2}.blocks.{place}.{inner}"
        renamed[short] = value.flatten() if short.endswith(".gamma") else value
    return renamed
