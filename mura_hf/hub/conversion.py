"""`convert_checkpoint`: a state dict of torchvision or timm as a checkpoint of this package.

State dicts are read without running code, unwrapped, and renamed to timm's names.
"""

import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
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


_BODY = "mura.backbone."  # prefix of a backbone's weights in a checkpoint
_COUNTER = "num_batches_tracked"  # of batch norms: counts training steps, and no prediction depends on it
_HEAD = re.compile(r"((?:classifier|fc|_fc|head|head\.fc|last_linear|linear|logits|output)(?:\.\d+)*)\.(weight|bias)")
_AUXILIARY = re.compile(r"(AuxLogits|aux\d?|aux_classifier)\.")


@dataclass(frozen=True)
class ConvertedKey:
    """What became of one weight."""

    source: str | None
    """Its name in the file; None if the file does not have it."""
    target: str | None
    """Its name in the checkpoint; None if it was left out."""
    note: str = ""
    """How it was changed, or why it was left out or added; empty if it was copied as it is."""

    @property
    def is_added_counter(self) -> bool:
        """Whether it is a counter of training steps that the file does not have."""
        return self.source is None and (self.target or "").endswith(_COUNTER)


@dataclass(frozen=True)
class Conversion:
    """A checkpoint made from the weights of another project."""

    folder: Path
    architecture: str
    keys: list[ConvertedKey] = field(default_factory=list)
    """One entry for each weight in the file, in its order, and for each that the file does not have."""

    @property
    def left_out(self) -> list[ConvertedKey]:
        """Entries of the file that are not in the checkpoint."""
        return [key for key in self.keys if key.target is None]

    def to_dict(self) -> dict[str, Any]:
        """All fields but the folder as plain values."""
        return {"architecture": self.architecture, "keys": [asdict(key) for key in self.keys]}

    def describe(self) -> str:
        """One line for each group of copied weights, and for each weight that was changed, added or left out."""
        copied = [key for key in self.keys if key.target is not None and key.source is not None and not key.note]
        groups = Counter((_group(key.source or ""), _group((key.target or "").removeprefix(_BODY))) for key in copied)
        lines = [f"{count:5d}  {source} -> {_BODY}{target}" for (source, target), count in groups.items()]
        counters = sum(key.is_added_counter for key in self.keys)
        if counters:
            lines.append(f"{counters:5d}  ({_COUNTER}, not in the file) -> 0")
        for key in self.keys:
            if key.note and not key.is_added_counter:
                lines.append(f"    1  {key.source or '(not in the file)'} -> {key.target or 'left out'}: {key.note}")
        return "\n".join(lines)


def _group(name: str) -> str:
    """Part of the network that a weight belongs to."""
    return ".".join(bare_name(name).split(".")[:-1][:2])


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
    """Turns a state dict into a checkpoint of `MuraForImageClassification` and accounts for every weight of the file.

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
        leave_out: Prefixes of weights that do not belong to the network, such as "criterion.".

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
    weights = _leave_out(read_state_dict(file), leave_out)
    bare = strip_prefixes(list(weights.tensors), architecture)
    if architecture.startswith("vgg") and "classifier.0.weight" in bare.values() and image_size != 224:
        raise CheckpointError(
            f"{file}: torchvision's VGG pools to 7 x 7 before its linear layers and timm's does not, so both agree at "
            f"224 px, but not at {image_size} px; set image_size to 224"
        )
    probe = create_backbone(MuraConfig(backbone=architecture, image_size=image_size))
    tensors = {bare[name]: value for name, value in weights.tensors.items()}
    named, origins = rename_for_timm(tensors, probe, architecture)
    channels = _count_channels(file, probe, named)
    processor = _make_processor(image_size, resize_mode, image_mean, image_std, channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a new head starts the same each time
        config = MuraConfig(backbone=architecture, image_size=image_size, num_channels=channels)
        model = MuraForImageClassification(config).eval()

    in_file = {short: name for name, short in bare.items()}
    sources = {name: in_file[origin] for name, origin in origins.items()}
    body, keys = _convert_body(file, architecture, model, named, sources)
    rest = {name: value for name, value in named.items() if name not in body}
    head, head_keys = _convert_head(
        file, rest, sources, model.mura.hidden_size, abnormal_index, single_logit, new_head
    )
    keys += head_keys
    keys += [ConvertedKey(name, None, why) for name, why in weights.others.items()]
    known = {key.source for key in keys}
    unused = "timm's own conversion of this architecture leaves it out, or computes others from it"
    keys += [ConvertedKey(name, None, unused) for name in weights.tensors if name not in known]
    model.mura.backbone.load_state_dict(body)
    if head:
        model.classifier.load_state_dict(head)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    MuraForImageClassification.from_pretrained(out)  # strict: raises if a weight is missing
    order = {name: place for place, name in enumerate([*weights.tensors, *weights.others])}
    keys.sort(key=lambda key: order.get(key.source or "", len(order)))
    return Conversion(out, architecture, keys)


def _leave_out(weights: Weights, prefixes: Sequence[str]) -> Weights:
    """Moves weights that do not take part in predictions to the others."""
    others = dict(weights.others)
    for name in weights.tensors:
        if name.startswith(tuple(prefixes)):
            others[name] = "left out as you asked"
        elif _AUXILIARY.match(bare_name(name)):
            others[name] = "an auxiliary head, which is used in training only"
    return Weights({name: value for name, value in weights.tensors.items() if name not in others}, others)


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
) -> tuple[dict[str, torch.Tensor], list[ConvertedKey]]:
    """All weights of the backbone, and where they come from."""
    wanted = model.mura.backbone.state_dict()
    missing = [name for name in wanted if name not in named and not name.endswith(_COUNTER)]
    if missing:
        unknown = [name for name in named if name not in wanted and not _HEAD.fullmatch(name)]
        instead = f", and has {_few(unknown)} instead" if unknown else ""
        raise CheckpointError(
            f"{file} lacks {_few(missing)} of {architecture}{instead}; it is of another architecture, or its names "
            "are not supported here"
        )
    misfits = [
        f"{name} {list(named[name].shape)} instead of {list(value.shape)}"
        for name, value in wanted.items()
        if name in named and named[name].shape != value.shape
    ]
    if misfits:
        raise CheckpointError(
            f"{file} does not fit {architecture}: {_few(misfits)}; check architecture and image size"
        )
    body, keys = {}, []
    for name, value in wanted.items():
        if name not in named:
            body[name] = torch.zeros_like(value)
            keys.append(ConvertedKey(None, _BODY + name, "not in the file, set to 0; it counts training steps only"))
            continue
        body[name] = named[name].to(value.dtype)
        origin = sources.get(name)
        note = "" if origin else "computed by timm from other weights of the file"
        keys.append(ConvertedKey(origin, _BODY + name, note))
    return body, keys


def _convert_head(
    file: Path,
    rest: dict[str, torch.Tensor],
    sources: dict[str, str],
    width: int,
    abnormal_index: int | None,
    single_logit: bool,
    new_head: bool,
) -> tuple[dict[str, torch.Tensor], list[ConvertedKey]]:
    """Weights of the classifier from those that the backbone does not have, and where they come from."""
    matches = {name: found for name in rest if (found := _HEAD.fullmatch(name))}
    unknown = [sources.get(name, name) for name in rest if name not in matches]
    if unknown:
        raise CheckpointError(
            f"{file} has weights that are unknown to the architecture: {_few(unknown)}; without them, the predictions "
            "would differ. If they do not belong to the network (a loss, for example), name them in leave_out"
        )
    if new_head:
        why = "the old head; a new one starts untrained (new_head)"
        keys = [ConvertedKey(sources.get(name, name), None, why) for name in matches]
        return {}, [*keys, *(ConvertedKey(None, f"classifier.{part}", "untrained") for part in ("weight", "bias"))]
    layers = {found[1] for found in matches.values()}
    if len(layers) != 1:
        raise CheckpointError(
            f"{file} has {'no head' if not layers else f'a head of several layers ({_few(sorted(layers))})'}; only "
            "one linear layer can be converted, because a state dict does not say what is between several. Use "
            "new_head to replace it by an untrained one"
        )
    (layer,) = layers
    weight, bias = rest.get(f"{layer}.weight"), rest.get(f"{layer}.bias")
    if weight is None or weight.ndim != 2 or weight.shape[1] != width:
        shape = None if weight is None else list(weight.shape)
        raise CheckpointError(f"{file}: the head {layer} has a weight {shape}, but [outputs, {width}] is needed")
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
    note, head, keys = "the head", {}, []
    if single_logit:
        note += "; one logit z becomes the two logits 0 and z, whose softmax is its sigmoid"
    elif abnormal_index == 0:
        note += "; rows swapped, because abnormal is second here"
    for part, value in (("weight", weight), ("bias", torch.zeros(outputs) if bias is None else bias)):
        if single_logit:
            value = torch.cat([torch.zeros_like(value), value])
        elif abnormal_index == 0:
            value = value.flip(0)
        head[part] = value.float()
        name = f"{layer}.{part}"
        if name in rest:
            keys.append(ConvertedKey(sources.get(name, name), f"classifier.{part}", note))
        else:
            keys.append(ConvertedKey(None, f"classifier.{part}", "not in the file, set to 0"))
    return head, keys


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)
