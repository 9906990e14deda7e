"""Loading a checkpoint: from the package, a folder or the Hub, with everything that lies beside its weights."""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ..common import BUNDLED, DEFAULT
from ..errors import CheckpointError
from ..models import (
    CLASSIFIERS,
    MuraClassifier,
    MuraForStudyClassification,
    MuraImageProcessor,
)
from ..models.golden_mura import digest_weights
from ..retrieval import FOLDER, INDEX_FILES, OOD_FILE, ROWS, OODDetector, RetrievalIndex
from .external_model import EXTERNAL_WARNING, ExternalProcessor, load_external

HUB_TIMEOUT = 5.0
"""Seconds to wait for the first response of the Hub."""


@dataclass(frozen=True)
class CheckpointLimits:
    """What a checkpoint may ask for. A stranger's files are checked before anything large is fetched or built."""

    weights_bytes: int | None = None  # of all weights and codes together, on the Hub; None for no limit
    file_bytes: int = 32 << 20  # of each JSON file and of the card
    side: int = 4096  # sides of images in pixels, in the configuration and in that of the image processor
    number: float = 1e6  # any other number in these files, such as a number of layers
    tensors: int = 50_000  # number of parameters and buffers of the network, each a tensor
    elements: int = 4_000_000_000  # elements of these tensors, all together
    # Elements of a product of matrices for one view, such as the attention of all its tokens to each other
    product: int = 1 << 30


LOCAL_CHECKPOINTS = CheckpointLimits()
PUBLIC_CHECKPOINTS = CheckpointLimits(
    1 << 30, 4 << 20, side=1024, number=1e5, tensors=10_000, elements=300_000_000, product=1 << 24
)
"""Limits of an app that strangers reach."""

_SIDES = re.compile(
    r"((image|img|local|crop|pad|input)_)?size|height|width|(shortest|longest)_edge|max_(height|width)"
)
_SMALLEST_CROP = 0.25  # share of the side; an image is enlarged by its inverse


def check_values(values: Any, limits: CheckpointLimits, file: str, name: str = "") -> None:
    """Checks all numbers of a JSON file of a checkpoint; `name` is the field that holds `values`.

    Raises:
        CheckpointError: If one is above its limit.
    """
    if isinstance(values, dict | list):
        for key, value in values.items() if isinstance(values, dict) else ((name, value) for value in values):
            check_values(value, limits, file, str(key))
    elif isinstance(values, int | float) and not isinstance(values, bool):
        limit = limits.side if _SIDES.fullmatch(name) else limits.number
        if not abs(values) <= limit or (name == "crop_pct" and values < _SMALLEST_CROP):
            shown = repr(values) if isinstance(values, float) or abs(values) < 1e12 else "a huge number"
            rule = f"at least {_SMALLEST_CROP}" if name == "crop_pct" else f"at most {limit:g}"
            raise CheckpointError(f"{file}: {name} is {shown}, and {rule} is allowed here; correct the file")


_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.tensor}
_PRODUCTS = {
    torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.__matmul__,
    scaled_dot_product_attention,
}  # fmt: skip


class _BoundedBuilding(TorchFunctionMode):
    """Stops the building of a network with too many layers or parameters, in this thread only.

    transformers builds networks on the meta device, so nothing of this size is allocated yet. Also stops the first run
    of an external network before it computes too large a product.
    """

    def __init__(self, place: str, limits: CheckpointLimits) -> None:
        super().__init__()
        self.place, self.limits, self.tensors, self.elements = place, limits, 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and len(args) > 1:
            shape, other = args[0].shape, args[1].shape
            last = other[-2] if func is scaled_dot_product_attention else other[-1]
            if shape[:-1].numel() * last > self.limits.product:
                raise CheckpointError(
                    f"{self.place} compares {shape[-2]:,} parts of an image with each other, which needs more memory "
                    "than is allowed here; use a checkpoint with smaller images or larger patches"
                )
        result = func(*args, **(kwargs or {}))
        if func in _FACTORIES and result.is_meta:
            self.tensors, self.elements = self.tensors + 1, self.elements + result.numel()
            if self.tensors > self.limits.tensors or self.elements > self.limits.elements:
                raise CheckpointError(
                    f"{self.place} describes a network of more than {self.limits.tensors:,} tensors or "
                    f"{self.limits.elements:,} parameters, which is the limit here; use a smaller checkpoint"
                )
        return result


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is."""

    location: str  # folder or Hub name, as transformers takes it
    revision: str | None  # revision on the Hub; None for the main branch and for folders
    # Name in predictions: the Hub name, with the revision if one was given; "bundled: " and its name; or "folder:
    # " and the last part of its path. Full paths are private and never shown.
    name: str


def find_source(name_or_path: str | os.PathLike[str] | None, revision: str | None = None) -> Source:
    """Finds a checkpoint; see `StudyPredictor.from_pretrained` for the arguments.

    The Hub is asked once, with a short timeout, if the checkpoint is not in the local cache.

    Raises:
        CheckpointError: If there is no such folder or Hub name, the Hub cannot be reached, or a folder is given a
            revision.
    """
    location = str(name_or_path or os.environ.get("MURA_CHECKPOINT") or DEFAULT)
    bundled = None if isinstance(name_or_path, Path) else BUNDLED.get(location)
    folder = bundled or Path(location)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"{location} is a folder on this machine and has no revision {revision!r}; leave the revision out"
            )
        resolved = folder.resolve()
        names = [name for name, place in BUNDLED.items() if place.resolve() == resolved]
        return Source(str(folder), None, f"bundled: {names[0]}" if names else f"folder: {resolved.name}")
    unknown = CheckpointError(
        f"{location} is neither a folder on this machine nor a Hub name such as user/model; the package comes with "
        f"{', '.join(BUNDLED)}"
    )
    if location.count("/") != 1:
        raise unknown
    try:
        cached = try_to_load_from_cache(location, "config.json", revision=revision)
    except HFValidationError as error:
        raise unknown from error
    if not isinstance(cached, str):
        _check_hub(location, revision)
    return Source(location, revision, location if revision is None else f"{location}@{revision}")


_HUB_ERRORS: dict[type[Exception], str] = {
    GatedRepoError: "{name} is gated: accept its terms on the Hub, and run `hf auth login`",
    RepositoryNotFoundError: (
        "{name} is no folder on this machine, and the Hub has no such model that you may read; check the name"
    ),
    RevisionNotFoundError: "{name} has no revision {revision!r} on the Hub; check its branches and tags",
    EntryNotFoundError: "{name} has no config.json on the Hub, so it is not a checkpoint of transformers",
    HfHubHTTPError: "{name} cannot be downloaded: the Hub answers {error}",
    OfflineModeIsEnabled: (
        "{name} is no folder on this machine nor in its cache, and HF_HUB_OFFLINE forbids asking the Hub"
    ),
    Exception: ("{name} is no folder on this machine, and the Hub cannot be reached; check the name and the network"),
}
"""Subclasses come before their bases."""


def _check_hub(name: str, revision: str | None) -> None:
    """Asks the Hub without retries; those of transformers would take half a minute for a misspelt name."""
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=HUB_TIMEOUT)
    except Exception as error:  # any network failure
        raise _describe_hub_error(error, name, revision) from error


def _describe_hub_error(error: Exception, name: str, revision: str | None) -> CheckpointError:
    message = next(text for kind, text in _HUB_ERRORS.items() if isinstance(error, kind))
    return CheckpointError(message.format(name=name, revision=revision, error=error))


_WEIGHTS = "safetensors files beside the configuration"
_TEXTS = (".json", ".md")  # suffixes of settings, records and cards


def check_sizes(source: Source, limits: CheckpointLimits) -> None:
    """Checks the sizes of the files of a checkpoint: of all on the Hub, or of the JSON files and cards of a folder.

    Without a network, only files in the local cache can be loaded, so nothing is checked.

    Raises:
        CheckpointError: If one is above its limit, the weights are limited and the Hub does not say the sizes, or the
            weights are in parts that are not safetensors files beside their index.
    """
    folder = Path(source.location)
    if folder.is_dir():
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.suffix in _TEXTS}
    else:
        try:
            info = HfApi().model_info(
                source.location, revision=source.revision, files_metadata=True, timeout=HUB_TIMEOUT
            )
        except (OfflineModeIsEnabled, httpx.ConnectError, httpx.ConnectTimeout):
            return
        except (HfHubHTTPError, HFValidationError, httpx.HTTPError) as error:
            if limits.weights_bytes is None:
                return  # the cache may have the files; otherwise loading fails too
            raise _describe_hub_error(error, source.location, source.revision) from error
        kinds = (*_TEXTS, ".safetensors", ROWS)
        unknown = [one.rfilename for one in info.siblings or () if one.size is None and one.rfilename.endswith(kinds)]
        if unknown and limits.weights_bytes is not None:
            raise CheckpointError(
                f"the Hub does not say how large {unknown[0]} of {source.name} is, so this app does not load it; run "
                "the app on your own machine to use this checkpoint"
            )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        weights = sum(size for file, size in sizes.items() if file.endswith((".safetensors", ROWS)))
        if limits.weights_bytes is not None and weights > limits.weights_bytes:
            raise CheckpointError(
                f"the weights of {source.name} have {weights / 1e9:.1f} GB, and this app loads at most "
                f"{limits.weights_bytes / 1e9:.1f} GB; run the app on your own machine to use this checkpoint"
            )
    for file, size in sizes.items():
        if file.endswith(_TEXTS) and size > limits.file_bytes:
            raise CheckpointError(
                f"{file} of {source.name} has {size / 1e6:.0f} MB, and at most {limits.file_bytes / 1e6:.0f} MB are "
                "allowed here; it should hold settings or text only"
            )
    index = find_file(source, SAFE_WEIGHTS_INDEX_NAME) if SAFE_WEIGHTS_INDEX_NAME in sizes else None
    for name in {} if index is None else json.loads(index.read_bytes())["weight_map"].values():
        if not re.fullmatch(r"[^/\\]+\.safetensors", str(name)):
            raise CheckpointError(
                f"an index of weights of {source.name} names {name!r}; weights may only be {_WEIGHTS}"
            )


def find_file(source: Source, name: str) -> Path | None:
    """Returns the local path of a file of a checkpoint, downloaded if needed; None if it cannot be had."""
    if Path(source.location).is_dir():
        file = Path(source.location) / name
        return file if file.is_file() else None
    cached = try_to_load_from_cache(source.location, name, revision=source.revision)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # the cache remembers that the Hub has no such file
        return None
    try:
        return Path(hf_hub_download(source.location, name, revision=source.revision, etag_timeout=HUB_TIMEOUT))
    except Exception:  # optional files must not prevent a checkpoint from loading
        return None


def find_weights(source: Source) -> Path | None:
    """Returns the local folder that holds the weights of a loaded checkpoint."""
    if Path(source.location).is_dir():
        return Path(source.location)
    config = try_to_load_from_cache(source.location, "config.json", revision=source.revision)
    return Path(config).parent if isinstance(config, str) else None


def load_checkpoint(
    source: Source,
    dtype: str | torch.dtype,
    abnormal_label: str | None,
    limits: CheckpointLimits = LOCAL_CHECKPOINTS,
) -> tuple[MuraClassifier, MuraImageProcessor | ExternalProcessor, list[str]]:
    """Loads model and image processor, and lists the warnings that belong to each prediction.

    Code that comes with a checkpoint is never run.

    Raises:
        CheckpointError: If it does not classify normal against abnormal, or exceeds the limits.
    """
    check_sizes(source, limits)
    revision = source.revision or "main"
    # As plain values, because already a configuration with a billion labels would fill the memory.
    values = PreTrainedConfig.get_config_dict(source.location, revision=revision)[0]
    check_values(values, limits, "config.json")
    if "transformers_weights" in values:  # transformers reads this file, even a pickled one
        raise CheckpointError(f"{source.name}: transformers_weights is in config.json; weights may only be {_WEIGHTS}")
    with suppress(OSError):  # timm keeps these settings in config.json
        settings, _ = MuraImageProcessor.get_image_processor_dict(source.location, revision=revision)
        check_values(settings, limits, "preprocessor_config.json")
    with _BoundedBuilding(source.location, limits):
        return _load_checkpoint(source, dtype, abnormal_label)


def _load_checkpoint(
    source: Source, dtype: str | torch.dtype, abnormal_label: str | None
) -> tuple[MuraClassifier, MuraImageProcessor | ExternalProcessor, list[str]]:
    place, revision = source.location, source.revision or "main"
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, revision=revision)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise CheckpointError(
            f"{place} needs code of its own, which is never run here; use a model type that transformers knows"
        ) from error
    if config.model_type not in CLASSIFIERS:
        model, processor = load_external(place, config, dtype, revision, abnormal_label)
        return model, processor, [EXTERNAL_WARNING]
    labels = config.id2label
    if abnormal_label is not None and abnormal_label.strip().casefold() != labels[1].casefold():
        raise CheckpointError(
            f"{place} is a checkpoint of mura_hf, whose labels are “{labels[0]}” and “{labels[1]}”; leave "
            f"abnormal_label “{abnormal_label}” out"
        )
    kind: Any = MuraForStudyClassification if config.model_type == "mura" else CLASSIFIERS[config.model_type]
    model = kind.from_pretrained(place, config=config, dtype=dtype, revision=revision)
    return model, MuraImageProcessor.from_pretrained(place, revision=revision), []


def load_index(source: Source, model: MuraClassifier, processor: Any) -> RetrievalIndex | None:
    """Opens the retrieval index of a checkpoint; None if it has none.

    Raises:
        CheckpointError: If the Hub cannot be reached, or the index is damaged or belongs to other weights or settings.
        ImportError: If pyarrow is not installed (extra `train`).
    """
    place = Path(source.location)
    if not place.is_dir():
        try:
            place = Path(
                snapshot_download(
                    source.location,
                    revision=source.revision,
                    # Without FAISS's file, because its reader is not safe for untrusted files.
                    allow_patterns=list(INDEX_FILES),
                    etag_timeout=HUB_TIMEOUT,
                )
            )
        except Exception as error:  # any network failure; the next call tries again
            raise CheckpointError(
                f"the Hub cannot be asked whether {source.name} has an index of studies: it cannot be reached; check "
                "the network"
            ) from error
    folder = place / FOLDER
    return RetrievalIndex.load(folder, model, processor) if folder.is_dir() else None


TOLERANCE = 1e-3
"""Largest difference of a float32 logit that rounding explains."""

HALF_TOLERANCE = 0.05
"""The same in half precision, where differences up to .008 were measured."""

UNREADABLE = (
    "The golden check of this checkpoint cannot be read, so it is unknown whether its predictions here are those of "
    "the machine where it was made."
)


def golden_warning(difference: float, dtype: torch.dtype) -> str | None:
    """Returns a warning if the logits of the golden check differ by more than rounding: `difference` at most."""
    if difference <= (TOLERANCE if dtype in (torch.float32, torch.float64) else HALF_TOLERANCE):
        return None
    return (
        f"The golden check of this checkpoint differs by {difference:.3g}: for its test picture, the logits are not "
        "those of the machine where it was made, so its published figures may not hold here. Compare the versions of "
        "torch, transformers and timm with those on its card."
    )


NO_DETECTOR = "Studies out of distribution cannot be detected: "
"""Begins the warnings about a detector that is missing or cannot be used."""

DETECTOR_IS_MISSING = (
    f"{NO_DETECTOR}the model was saved without the detector of its checkpoint. Save both with "
    "StudyPredictor.save_pretrained, or fit a new one with scripts/calibrate.py."
)


def load_ood_detector(source: Source) -> tuple[OODDetector | None, str | None]:
    """Returns the out-of-distribution detector of a checkpoint, if it has one, and a warning if it cannot be used."""
    file, folder = find_file(source, OOD_FILE), find_weights(source)
    if file is None or folder is None:
        return None, None
    try:
        return OODDetector.load(file, digest_weights(folder)), None
    except CheckpointError as error:
        return None, f"{NO_DETECTOR}{error}."
