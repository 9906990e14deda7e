"""`convert_checkpoint`: a state dict of torchvision or timm as a checkpoint of this package.

State dicts are read without running code, unwrapped, and renamed to timm's names.
"""

import argparse
import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import load_file

from ..errors import CheckpointError, first_line
from ..models import MuraConfig, MuraForImageClassification, MuraImageProcessor
from ..models.backbone_mura import create_backbone

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Entries under which training scripts store the weights beside other things."""

PREFIXES = ("module.", "model.", "backbone.", "features_extractor.", "net.", "network.", "_orig_mod.")
"""Prefixes that wrappers add to every name."""

# Names of the function that converts foreign weights in timm's modules.
_FILTERS = ("checkpoint_filter_fn", "_filter_torchvision_pretrained", "_filter_fn", "pretrained_filter_fn")
_CONVNEXT_BLOCK = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}


class Conversion(NamedTuple):
    """A checkpoint made from the weights of another project."""

    folder: Path
    left_out: list[str]
    """Names in the file of weights that are not in the checkpoint. They include those that timm's own conversion
    drops, or computes others from.
    """


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """Reads a `.pth` or `.safetensors` file. Pickled objects are refused, so no code in the file is run."""
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file on this machine; give one with weights, such as best.pth")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # options, in files of timm's training script
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
        raise CheckpointError(f"{file} cannot be read by torch.load or as safetensors: {first_line(error)}") from error
    while isinstance(content, Mapping):
        inner = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
            if tensors:
                return tensors
            break
        content = content[inner]
    raise CheckpointError(
        f"{file} holds no state dict, neither directly nor under {', '.join(WRAPPERS)}; save one with "
        "torch.save(model.state_dict(), 'weights.pth')"
    )


def bare_name(name: str, architecture: str) -> str:
    """Name of a weight without the prefixes of wrappers and without the name of the architecture."""
    prefixes = (*PREFIXES, f"{architecture}.")
    while (prefix := next((one for one in prefixes if name.startswith(one)), None)) is not None:
        name = name.removeprefix(prefix)
    return name


def strip_prefixes(names: list[str], architecture: str) -> dict[str, str]:
    """Maps bare names to names in the file."""
    bare = [bare_name(name, architecture) for name in names]
    counts = Counter(bare)
    repeated = sorted((short, name) for short, name in zip(bare, names, strict=True) if counts[short] > 1)
    if repeated:
        raise CheckpointError(
            "the file holds several networks, or several copies of one: without prefixes, more than one weight is "
            f"called {repeated[0][0]} ({_few([name for short, name in repeated if short == repeated[0][0]])}); save "
            "the network that you mean by itself"
        )
    return dict(zip(bare, names, strict=True))


def rename_for_timm(tensors: dict[str, torch.Tensor], backbone: Any, architecture: str) -> dict[str, torch.Tensor]:
    """Renames and reshapes weights as timm's architecture needs them, with timm's own conversion if it has one."""
    # torchvision before 2018 called norm1 of a DenseNet norm.1; timm's conversion misses the counters among them.
    fixed = {re.sub(r"(denselayer\d+\.norm)\.(\d)(\.num_batches_tracked)$", r"\1\2\3", name): name for name in tensors}
    own = _rename_convnext({new: tensors[old] for new, old in fixed.items()}, architecture)
    convert = _find_filter(architecture)
    return own if convert is None else convert(own, backbone)


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


_COUNTER = "num_batches_tracked"  # of batch norms: counts training steps, and no prediction depends on it
_HEAD = re.compile(r"((?:classifier|fc|_fc|head|head\.fc|last_linear|linear|logits|output)(?:\.\d+)*)\.(weight|bias)")
_AUXILIARY = re.compile(r"(AuxLogits|aux\d?|aux_classifier)\.")


def convert_checkpoint(
    file: str | Path,
    out: str | Path,
    *,
    architecture: str,
    abnormal_index: int | None = None,
    single_logit: bool = False,
    new_head: bool = False,
    image_size: int = 320,
    resize_mode: str = "squash",
    image_mean: list[float] | None = None,
    image_std: list[float] | None = None,
    leave_out: Sequence[str] = (),
) -> Conversion:
    """Turns a state dict into a checkpoint of `MuraForImageClassification`.

    Args:
        file: `.pth` with a state dict, directly or wrapped as training scripts do, or `.safetensors`.
        out: New or empty folder.
        architecture: timm's name of the architecture, such as "densenet169". Weights of torchvision's version are
            renamed.
        abnormal_index: Which of the two logits of the head means abnormal.
        single_logit: The head has one logit z, and P(abnormal) is its sigmoid; it becomes the logits 0 and z.
        new_head: Leave out the head of the file and start an untrained one.
        image_size: Side in pixels of the square input that the network was trained with.
        resize_mode: "squash" or "letterbox".
        image_mean: Mean of the normalization in training, one value per channel; ImageNet's if None.
        image_std: Standard deviation, likewise.
        leave_out: Prefixes of weights that do not belong to the network, such as "criterion.". They are compared with
            the names in the file, with and without prefixes of wrappers such as "module.".

    Raises:
        CheckpointError: If the file cannot be read safely, a weight is missing, unknown or of another shape, the head
            differs from the options, or `out` is not empty.
        ValueError: If a setting of the image processor is out of range.
    """
    file, out = Path(file), Path(out)
    if sum([abnormal_index is not None, single_logit, new_head]) > 1:
        raise CheckpointError("give only one of abnormal_index, single_logit and new_head")
    if abnormal_index not in (None, 0, 1):
        raise CheckpointError(f"abnormal_index is {abnormal_index}: of two logits it is 0 or 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is not empty; choose a new folder for the checkpoint")
    weights = {name: value.clone() for name, value in read_state_dict(file).items()}  # no two share a storage
    bare = {name: bare_name(name, architecture) for name in weights}
    foreign = {
        name
        for name, short in bare.items()
        if name.startswith(tuple(leave_out)) or short.startswith(tuple(leave_out)) or _AUXILIARY.match(short)
    }
    in_file = strip_prefixes([name for name in weights if name not in foreign], architecture)
    if architecture.startswith("vgg") and "classifier.0.weight" in in_file and image_size != 224:
        raise CheckpointError(
            f"{file}: torchvision's VGG pools to 7 x 7 before its linear layers and timm's does not, so both agree at "
            f"224 px, but not at {image_size} px; set image_size to 224"
        )
    probe = create_backbone(MuraConfig(backbone=architecture, image_size=image_size))
    named = rename_for_timm({short: weights[name] for short, name in in_file.items()}, probe, architecture)
    # A weight keeps its storage when it is renamed or reshaped. One that timm resizes keeps its name.
    storages = {value.untyped_storage().data_ptr(): name for name, value in weights.items()}
    sources = {
        name: storages.get(value.untyped_storage().data_ptr(), in_file.get(name, name))
        for name, value in named.items()
    }
    channels = _count_channels(file, probe, named)
    processor = _make_processor(image_size, resize_mode, image_mean, image_std, channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a new head starts the same each time
        config = MuraConfig(backbone=architecture, image_size=image_size, num_channels=channels)
        model = MuraForImageClassification(config).eval()

    body = _convert_body(file, architecture, model, named, sources)
    rest = {name: value for name, value in named.items() if name not in body}
    head = _convert_head(file, rest, sources, model.mura.hidden_size, abnormal_index, single_logit, new_head)
    model.mura.backbone.load_state_dict(body)
    if head:
        model.classifier.load_state_dict(head)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    MuraForImageClassification.from_pretrained(out)  # strict: raises if a weight is missing
    used = {source for name, source in sources.items() if head or name in body}
    return Conversion(out, [name for name in weights if name not in used])


def _count_channels(file: Path, probe: Any, named: dict[str, torch.Tensor]) -> int:
    """Input channels according to the first convolution; 3 if the file lacks it, which is reported later."""
    first = next((name for name, value in probe.state_dict().items() if value.ndim == 4), None)
    channels = int(named[first].shape[1]) if first in named and named[first].ndim == 4 else 3
    if channels not in (1, 3):
        raise CheckpointError(
            f"{file}: the first convolution takes {channels} channels; a radiograph has one, or the same three times"
        )
    return channels


def _make_processor(
    image_size: int, mode: str, mean: list[float] | None, std: list[float] | None, channels: int
) -> MuraImageProcessor:
    settings: dict[str, Any] = {"image_mean": mean, "image_std": std}
    if channels == 1:  # the mean of ImageNet's channels
        settings = {"image_mean": mean or [0.449], "image_std": std or [0.226]}
    for name, values in settings.items():
        if values is not None and len(values) != channels:
            raise CheckpointError(f"{name} has {len(values)} values, but the network takes {channels} channels")
    given = {name: values for name, values in settings.items() if values is not None}
    return MuraImageProcessor(size={"height": image_size, "width": image_size}, resize_mode=mode, **given)


def _convert_body(
    file: Path,
    architecture: str,
    model: MuraForImageClassification,
    named: dict[str, torch.Tensor],
    sources: dict[str, str],
) -> dict[str, torch.Tensor]:
    """All weights of the backbone. `sources` maps names to those in the file."""
    wanted = model.mura.backbone.state_dict()
    missing = [name for name in wanted if name not in named and not name.endswith(_COUNTER)]
    if missing:
        unknown = [sources[name] for name in named if name not in wanted and not _HEAD.fullmatch(name)]
        instead = f", and has {_few(unknown)} instead" if unknown else ""
        raise CheckpointError(
            f"{file} lacks {_few(missing)} of {architecture}{instead}; it is of another architecture, or its names "
            "are not supported here"
        )
    misfits = [
        f"{sources[name]} {list(named[name].shape)} instead of {list(value.shape)}"
        for name, value in wanted.items()
        if name in named and named[name].shape != value.shape
    ]
    if misfits:
        raise CheckpointError(
            f"{file} does not fit {architecture}: {_few(misfits)}; check architecture and image size"
        )
    return {
        name: named[name].to(value.dtype) if name in named else torch.zeros_like(value)
        for name, value in wanted.items()
    }


def _convert_head(
    file: Path,
    rest: dict[str, torch.Tensor],
    sources: dict[str, str],
    width: int,
    abnormal_index: int | None,
    single_logit: bool,
    new_head: bool,
) -> dict[str, torch.Tensor]:
    """Weights of the classifier from those that the backbone does not have; empty if a new head is wanted."""
    matches = {name: found for name in rest if (found := _HEAD.fullmatch(name))}
    unknown = [sources[name] for name in rest if name not in matches]
    if unknown:
        raise CheckpointError(
            f"{file} has weights that are unknown to the architecture: {_few(unknown)}; without them, the predictions "
            "would differ. If they do not belong to the network (a loss, for example), name them in leave_out"
        )
    if new_head:
        return {}
    layers = {found[1]: sources[name].rpartition(".")[0] for name, found in matches.items()}
    if len(layers) != 1:
        several = f"a head of several layers ({_few(sorted(layers.values()))})"
        raise CheckpointError(
            f"{file} has {several if layers else 'no head'}; only one linear layer can be converted, because a state "
            "dict does not say what is between several. Use new_head to replace it by an untrained one"
        )
    ((layer, layer_in_file),) = layers.items()
    weight, bias = rest.get(f"{layer}.weight"), rest.get(f"{layer}.bias")
    if weight is None or weight.ndim != 2 or weight.shape[1] != width:
        shape = None if weight is None else list(weight.shape)
        raise CheckpointError(
            f"{file}: the head {layer_in_file} has a weight {shape}, but [outputs, {width}] is needed"
        )
    outputs = len(weight)
    if outputs > 2:
        raise CheckpointError(
            f"{file}: the head has {outputs} outputs, so it predicts other classes than normal and abnormal. Use "
            "new_head to replace it by an untrained one"
        )
    if single_logit != (outputs == 1) or (outputs == 2 and abnormal_index is None):
        question = (
            "one output: is P(abnormal) its sigmoid? Then set single_logit"
            if outputs == 1
            else "two outputs: which of them means abnormal? Set abnormal_index to 0 or 1"
        )
        raise CheckpointError(f"{file}: the head has {question}")
    head = {}
    for part, value in (("weight", weight), ("bias", torch.zeros(outputs) if bias is None else bias)):
        if single_logit:  # one logit z becomes the two logits 0 and z, whose softmax is its sigmoid
            value = torch.cat([torch.zeros_like(value), value])
        elif abnormal_index == 0:  # abnormal is second here
            value = value.flip(0)
        head[part] = value.float()
    return head


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)
