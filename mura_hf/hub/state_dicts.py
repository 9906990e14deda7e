"""State dicts of other projects: read without running code, unwrapped, and renamed to timm's names."""

import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import CheckpointError, first_line

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Entries under which training scripts store the weights beside other things."""

PREFIXES = ("module.", "model.", "backbone.", "features_extractor.", "net.", "network.", "_orig_mod.")
"""Prefixes that wrappers add to every name."""

# Names of the function that converts foreign weights in timm's modules.
_FILTERS = ("checkpoint_filter_fn", "_filter_torchvision_pretrained", "_filter_fn", "pretrained_filter_fn")
_CONVNEXT_BLOCK = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}


class Weights(NamedTuple):
    """Tensors of a file by name, and every other entry with the reason why it is not a weight."""

    tensors: dict[str, torch.Tensor]
    others: dict[str, str]


def read_state_dict(file: Path) -> Weights:
    """Reads a `.pth` or `.safetensors` file. Pickled objects are refused, so no code in the file is run."""
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file on this machine; give one with weights, such as best.pth")
    if file.suffix == ".safetensors":
        try:
            return Weights(load_file(file), {})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read as a safetensors file: {error}") from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CheckpointError(
            f"{file} holds pickled objects{f' ({needed[1]})' if needed else ''} or is damaged. Reading such objects "
            "can run any code, so the file is refused, and nothing was run. Ask its author for the weights alone, "
            "saved with torch.save(model.state_dict(), 'weights.pth'); or save them yourself where the classes are "
            "installed, if you trust the file"
        ) from error
    except Exception as error:  # a damaged file may fail in any way
        reason = first_line(error)
        raise CheckpointError(f"{file} cannot be read as a file of torch.save: {reason}") from error
    return _unwrap(content, file)


def _unwrap(content: Any, file: Path) -> Weights:
    others: dict[str, str] = {}
    where = ""
    while isinstance(content, Mapping):
        inner = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        reason = f"beside the weights, which are under {inner!r}" if inner else "not a weight"
        for name, value in content.items():
            if name != inner and (inner is not None or not isinstance(value, torch.Tensor)):
                others[where + str(name)] = f"{reason} ({type(value).__name__})"
        if inner is None:
            tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
            if tensors:
                return Weights(tensors, others)
            break
        content, where = content[inner], f"{where}{inner}."
    raise CheckpointError(
        f"{file} holds no state dict, neither directly nor under {', '.join(WRAPPERS)}; save one with "
        "torch.save(model.state_dict(), 'weights.pth')"
    )


def bare_name(name: str) -> str:
    """Name of a weight without the prefixes of wrappers."""
    while (prefix := next((one for one in PREFIXES if name.startswith(one)), None)) is not None:
        name = name.removeprefix(prefix)
    return name


def strip_prefixes(names: list[str], architecture: str) -> dict[str, str]:
    """Maps names in the file to names without prefixes of wrappers and without the name of the architecture."""
    bare = {name: bare_name(bare_name(name).removeprefix(f"{architecture}.")) for name in names}
    repeated = sorted(short for short, count in Counter(bare.values()).items() if count > 1)
    if repeated:
        raise CheckpointError(
            f"the file holds several networks, or several copies of one: without prefixes, more than one weight is "
            f"called {', '.join(repeated[:4])}; save the network that you mean by itself"
        )
    return bare


def rename_for_timm(
    tensors: dict[str, torch.Tensor], backbone: Any, architecture: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Renames and reshapes weights as timm's architecture needs them, with timm's own conversion if it has one.

    Also returns new name -> old name. Weights that timm computes from several others have no old name.
    """
    # torchvision before 2018 called norm1 of a DenseNet norm.1; timm's conversion misses the counters among them.
    fixed = {re.sub(r"(denselayer\d+\.norm)\.(\d)(\.num_batches_tracked)$", r"\1\2\3", name): name for name in tensors}
    own = _rename_convnext({new: tensors[old] for new, old in fixed.items()}, architecture)
    own = {name: value.clone() for name, value in own.items()}
    # A weight keeps its storage when it is renamed or reshaped.
    old_names = dict(zip(own, fixed.values(), strict=True))
    origins = {value.untyped_storage().data_ptr(): old_names[name] for name, value in own.items() if value.numel()}
    convert = _find_filter(architecture)
    renamed = own if convert is None else convert(dict(own), backbone)
    named = {name: origins.get(value.untyped_storage().data_ptr()) for name, value in renamed.items()}
    return renamed, {name: origin for name, origin in named.items() if origin is not None}


def _find_filter(architecture: str) -> Callable[..., dict[str, torch.Tensor]] | None:
    """timm's conversion of foreign weights for an architecture; it is private to timm's modules."""
    module = sys.modules[timm.model_entrypoint(architecture.partition(".")[0]).__module__]
    for convert in (getattr(module, name, None) for name in _FILTERS):
        if convert is not None:
            return lambda *arguments, convert=convert: convert(*arguments[: convert.__code__.co_argcount])
    return None


def _rename_convnext(tensors: dict[str, torch.Tensor], architecture: str) -> dict[str, torch.Tensor]:
    """Renames a ConvNeXt of torchvision, for which timm has no conversion; returns other weights unchanged."""
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
