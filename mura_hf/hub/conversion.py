"""What became of each weight of a file that was converted.

`convert_checkpoint`: a torchvision- or timm-style state dict as a checkpoint of ours.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..models import MuraConfig, MuraForImageClassification, MuraImageProcessor
from ..models.backbone_mura import create_backbone
from .state_dicts import Weights, bare_name, read_state_dict, rename_for_timm, strip_prefixes

BODY = "mura.backbone."
"""What stands in front of a backbone's weights in a checkpoint."""

COUNTER = "num_batches_tracked"
"""Of batch norms: counts training steps, and no answer depends on it."""


@dataclass(frozen=True)
class ConvertedKey:
    """What became of one weight.

    Attributes:
        source: Its name in the file; None for what the file does not have.
        target: Its name in the checkpoint; None where it was left out.
        note: How it was changed, or why it was left out or added; empty where it was taken as it is.
    """

    source: str | None
    target: str | None
    note: str = ""


@dataclass(frozen=True)
class Conversion:
    """A checkpoint made from someone else's weights.

    Attributes:
        folder: Of the checkpoint.
        architecture: timm's name of it.
        keys: One for each weight in the file, in its order, and for each that the file does not have.
    """

    folder: Path
    architecture: str
    keys: list[ConvertedKey] = field(default_factory=list)

    @property
    def left_out(self) -> list[ConvertedKey]:
        """What is in the file and not in the checkpoint."""
        return [key for key in self.keys if key.target is None]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {"architecture": self.architecture, "keys": [asdict(key) for key in self.keys]}

    def describe(self) -> str:
        """A line for each group of weights, for each that was changed by itself, and for each that was left out."""
        plain = [key for key in self.keys if key.target is not None and key.source is not None and not key.note]
        groups = Counter((_group(key.source or ""), _group((key.target or "").removeprefix(BODY))) for key in plain)
        lines = [f"{count:5d}  {source} -> {BODY}{target}" for (source, target), count in groups.items()]
        counters = sum(key.source is None and (key.target or "").endswith(COUNTER) for key in self.keys)
        if counters:
            lines.append(f"{counters:5d}  ({COUNTER}, not in the file) -> 0")
        for key in self.keys:
            if key.note and not (key.source is None and (key.target or "").endswith(COUNTER)):
                lines.append(f"    1  {key.source or '(not in the file)'} -> {key.target or 'left out'}: {key.note}")
        return "\n".join(lines)


def _group(name: str) -> str:
    """The part of the network that a weight belongs to."""
    return ".".join(bare_name(name).split(".")[:-1][:2])


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
    """Turns a state dict into a checkpoint of `MuraForImageClassification`; every weight of the file is accounted for.

    Args:
        file: `.pth` of a state dict, by itself or wrapped as training scripts do, or `.safetensors`.
        out: New or empty folder.
        architecture: timm's name of the network, such as "densenet169"; torchvision's weights of the same network are
            renamed.
        abnormal_index: Which of a head's two logits means abnormal.
        single_logit: The head has one logit z, and P(abnormal) is its sigmoid; it becomes the logits 0 and z.
        new_head: Leave the head of the file out, and start an untrained one.
        image_size: Side in pixels of the square that the network was trained on.
        resize_mode: "squash" or "letterbox".
        image_mean: Of the normalisation that it was trained with, one value a channel; ImageNet's where None.
        image_std: Likewise.
        leave_out: Beginnings of names of weights that do not belong to the network, such as "criterion.".

    Raises:
        CheckpointError: If the file cannot be read safely, a weight is missing, has no place or does not fit, the head
            is not as told, or `out` is not empty.
        ValueError: If a setting of the image processor is out of range.
    """
    file, out = Path(file), Path(out)
    if sum([abnormal_index is not None, single_logit, new_head]) > 1:
        raise CheckpointError("give only one of abnormal_index, single_logit and new_head")
    if abnormal_index not in (None, 0, 1):
        raise CheckpointError(f"abnormal_index is {abnormal_index}: of two logits it is 0 or 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is not empty; name a new folder for the checkpoint")
    weights = _leave_out(read_state_dict(file), leave_out)
    bare = strip_prefixes(list(weights.tensors), architecture)
    if architecture.startswith("vgg") and "classifier.0.weight" in bare.values() and image_size != 224:
        raise CheckpointError(
            f"{file}: torchvision's VGG pools to 7 x 7 before its linear layers and timm's does not, so they answer "
            f"alike for pictures of 224 px, not of {image_size} px; give image_size 224"
        )
    probe = create_backbone(MuraConfig(backbone=architecture, image_size=image_size))
    named, origins = rename_for_timm(
        {bare[name]: value for name, value in weights.tensors.items()}, probe, architecture
    )
    channels = _count_channels(file, probe, named)
    processor = _make_processor(image_size, resize_mode, image_mean, image_std, channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a new head starts the same each time
        config = MuraConfig(backbone=architecture, image_size=image_size, num_channels=channels)
        model = MuraForImageClassification(config).eval()

    in_file = {short: name for name, short in bare.items()}
    sources = {name: in_file[origin] for name, origin in origins.items()}
    body, body_keys = _place_body(file, architecture, model, named, sources)
    rest = {name: value for name, value in named.items() if name not in body}
    head, head_keys = _place_head(file, rest, sources, model.mura.hidden_size, abnormal_index, single_logit, new_head)
    keys = [*body_keys, *head_keys]
    keys += [ConvertedKey(name, None, why) for name, why in weights.others.items()]
    told = {key.source for key in keys}
    keys += [
        ConvertedKey(
            name, None, "timm's own conversion of this architecture leaves it out, or computes others from it"
        )
        for name in weights.tensors
        if name not in told
    ]
    with torch.no_grad():
        model.mura.backbone.load_state_dict(body)
        if head:
            model.classifier.load_state_dict(head)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    MuraForImageClassification.from_pretrained(out)  # strict: what was written is whole
    order = {name: place for place, name in enumerate([*weights.tensors, *weights.others])}
    keys.sort(key=lambda key: order.get(key.source or "", len(order)))
    return Conversion(out, architecture, keys)


def _leave_out(weights: Weights, beginnings: Sequence[str]) -> Weights:
    """Moves what is no part of the answering network from the weights to the others."""
    others = dict(weights.others)
    for name in weights.tensors:
        if any(name.startswith(beginning) for beginning in beginnings):
            others[name] = "left out as you asked"
        elif _AUXILIARY.match(bare_name(name)):
            others[name] = "an auxiliary head, which works in training only"
    return Weights({name: value for name, value in weights.tensors.items() if name not in others}, others)


def _count_channels(file: Path, probe: Any, named: dict[str, torch.Tensor]) -> int:
    """Channels that the network takes, by its first convolution; 3 where the file lacks that, which is said later."""
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
    chosen: dict[str, Any] = {"image_mean": mean, "image_std": std}
    if channels == 1:  # the mean of ImageNet's channels
        chosen = {"image_mean": mean or [0.449], "image_std": std or [0.226]}
    for name, values in chosen.items():
        if values is not None and len(values) != channels:
            raise CheckpointError(f"{name} has {len(values)} values, but the network takes {channels} channels")
    given = {name: values for name, values in chosen.items() if values is not None}
    return MuraImageProcessor(size={"height": image_size, "width": image_size}, resize_mode=mode, **given)


def _place_body(
    file: Path,
    architecture: str,
    model: MuraForImageClassification,
    named: dict[str, torch.Tensor],
    sources: dict[str, str],
) -> tuple[dict[str, torch.Tensor], list[ConvertedKey]]:
    """The backbone's weights, every one of them, and where they came from."""
    wanted = model.mura.backbone.state_dict()
    missing = [name for name in wanted if name not in named and not name.endswith(COUNTER)]
    if missing:
        strange = [name for name in named if name not in wanted and not _HEAD.fullmatch(name)]
        raise CheckpointError(
            f"{file} lacks {_few(missing)} of {architecture}"
            + (f", and has {_few(strange)} instead" if strange else "")
            + "; it is of another architecture, or names its weights in a way that is not mapped here"
        )
    misfits = [name for name, value in wanted.items() if name in named and named[name].shape != value.shape]
    if misfits:
        told = [f"{name} {list(named[name].shape)} instead of {list(wanted[name].shape)}" for name in misfits]
        raise CheckpointError(f"{file} does not fit {architecture}: {_few(told)}; check architecture and image size")
    body, keys = {}, []
    for name, value in wanted.items():
        if name not in named:
            body[name] = torch.zeros_like(value)
            keys.append(ConvertedKey(None, BODY + name, "not in the file, set to 0; it counts training steps only"))
            continue
        body[name] = named[name].to(value.dtype)
        origin = sources.get(name)
        keys.append(ConvertedKey(origin, BODY + name, "" if origin else "computed by timm from others of the file"))
    return body, keys


def _place_head(
    file: Path,
    rest: dict[str, torch.Tensor],
    sources: dict[str, str],
    width: int,
    abnormal_index: int | None,
    single_logit: bool,
    new_head: bool,
) -> tuple[dict[str, torch.Tensor], list[ConvertedKey]]:
    """The classifier's weights from what the backbone has no place for, and where they came from."""
    matches = {name: found for name in rest if (found := _HEAD.fullmatch(name))}
    strange = [sources.get(name, name) for name in rest if name not in matches]
    if strange:
        raise CheckpointError(
            f"{file} has weights that the architecture has no place for: {_few(strange)}; the network answers "
            "otherwise without them. If they are no part of it (a loss, say), name them in leave_out"
        )
    if new_head:
        why = "the old head; a new one starts untrained (new_head)"
        keys = [ConvertedKey(sources.get(name, name), None, why) for name in matches]
        return {}, [*keys, *(ConvertedKey(None, f"classifier.{part}", "untrained") for part in ("weight", "bias"))]
    layers = {found[1] for found in matches.values()}
    if len(layers) != 1:
        raise CheckpointError(
            f"{file} has {'no head' if not layers else f'a head of several layers ({_few(sorted(layers))})'}; one "
            "linear layer can be taken over, because a state dict does not tell what lies between several; with "
            "new_head an untrained one is put in its place"
        )
    (layer,) = layers
    weight, bias = rest.get(f"{layer}.weight"), rest.get(f"{layer}.bias")
    if weight is None or weight.ndim != 2 or weight.shape[1] != width:
        shape = None if weight is None else list(weight.shape)
        raise CheckpointError(f"{file}: the head {layer} has a weight {shape}, but [outputs, {width}] is needed")
    outputs = len(weight)
    bias = torch.zeros(outputs) if bias is None else bias
    if outputs > 2:
        raise CheckpointError(
            f"{file}: the head has {outputs} outputs, so it tells other classes than normal and abnormal; with "
            "new_head an untrained one is put in its place"
        )
    if single_logit != (outputs == 1) or (outputs == 2 and abnormal_index is None):
        raise CheckpointError(
            f"{file}: the head has "
            + (
                "one output: is P(abnormal) its sigmoid? Then say so with single_logit"
                if outputs == 1
                else "two outputs: which of them means abnormal? Say so with abnormal_index, 0 or 1"
            )
        )
    if single_logit:
        note = "one logit z, which becomes the two logits 0 and z: their softmax is its sigmoid"
        head = {"weight": torch.cat([torch.zeros_like(weight), weight]), "bias": torch.cat([bias * 0, bias])}
    else:
        order = [1 - int(abnormal_index or 0), int(abnormal_index or 0)]
        note = "" if order == [0, 1] else "rows turned round: abnormal comes second here"
        head = {"weight": weight[order], "bias": bias[order]}
    keys = [
        ConvertedKey(
            sources.get(f"{layer}.{part}", f"{layer}.{part}") if f"{layer}.{part}" in rest else None,
            f"classifier.{part}",
            "; ".join(filter(None, ["the head", note])) if f"{layer}.{part}" in rest else "not in the file, set to 0",
        )
        for part in ("weight", "bias")
    ]
    return {part: value.float() for part, value in head.items()}, keys


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)
