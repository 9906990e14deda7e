"""Where a checkpoint comes from: the package, a folder, or the Hub.

Files beside a checkpoint's weights, from its folder or the Hub.
Model and image processor of a checkpoint: one of ours, or someone else's.
The index that came with a checkpoint, opened when it is first asked for.
The golden check when a checkpoint is loaded: does it answer here as it did where it was made?
What a checkpoint knows about studies like those of its training, when it is loaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from huggingface_hub import (
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
from transformers import AutoConfig

from ..common import BUNDLED, DEFAULT
from ..errors import CheckpointError
from ..models import (
    CLASSIFIERS,
    GOLDEN_FILE,
    LABELS,
    Golden,
    MuraClassifier,
    MuraForStudyClassification,
    MuraImageProcessor,
    read_golden,
)
from ..models.golden_mura import digest_weights
from ..retrieval import CODES, FOLDER, OOD_FILE, RECORD, ROWS, OODDetector, RetrievalIndex
from .external_model import EXTERNAL_WARNING, load_external
from .external_processor import ExternalProcessor

HUB_TIMEOUT = 5.0
"""Seconds to wait for the Hub's first word."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that is there.

    Attributes:
        location: Folder or Hub name, as transformers takes it.
        revision: On the Hub; None for its main branch, and for folders.
        name: What answers call it: the Hub name with the revision where one was given, "bundled: " and the name of one
            of the package's own, or "folder: " and the folder's last part. Never a whole path, since answers are shown
            to strangers.
    """

    location: str
    revision: str | None
    name: str


def find_source(name_or_path: str | os.PathLike[str] | None, revision: str | None = None) -> Source:
    """Finds a checkpoint, and asks the Hub once, briefly, for one that is not on this machine.

    Args:
        name_or_path: Hub name, local folder, or one of the package's own by its name, such as "mura-phantom". Where
            None, the environment's `MURA_CHECKPOINT`, else the package's default.
        revision: Branch, tag or commit on the Hub.

    Raises:
        CheckpointError: If there is no such folder or Hub name, the Hub cannot be reached, or what is on this machine
            is given a revision.
    """
    location = str(name_or_path or os.environ.get("MURA_CHECKPOINT") or DEFAULT)
    own = None if isinstance(name_or_path, Path) else BUNDLED.get(location)
    folder = own or Path(location)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"{location} is a folder on this machine and has no revision {revision!r}; leave it out"
            )
        place = folder.resolve()
        names = [name for name, one in BUNDLED.items() if one.resolve() == place]
        return Source(str(folder), None, f"bundled: {names[0]}" if names else f"folder: {place.name}")
    nothing = CheckpointError(
        f"{location} is neither a folder on this machine nor a Hub name such as user/model; {', '.join(BUNDLED)} "
        f"come{'s' * (len(BUNDLED) == 1)} with the package"
    )
    if location.count("/") != 1:
        raise nothing
    try:
        cached = try_to_load_from_cache(location, "config.json", revision=revision)
    except HFValidationError as error:
        raise nothing from error
    if not isinstance(cached, str):
        _ask_hub(location, revision)
    return Source(location, revision, location if revision is None else f"{location}@{revision}")


def _ask_hub(name: str, revision: str | None) -> None:
    """One request without retries; transformers' own would keep a mistyped name waiting for half a minute."""
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=HUB_TIMEOUT)
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} asks for its terms to be accepted on the Hub, and for `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name} is no folder on this machine, and the Hub has no such model that you may read; check the name"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{name} has no revision {revision!r} on the Hub; check its branches and tags"
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"{name} holds no config.json on the Hub, so it is no checkpoint of transformers"
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"{name} cannot be had: the Hub answers {error}") from error
    except OfflineModeIsEnabled as error:
        raise CheckpointError(
            f"{name} is no folder on this machine nor in its cache, and HF_HUB_OFFLINE forbids asking the Hub"
        ) from error
    except Exception as error:  # whatever the network does
        raise CheckpointError(
            f"{name} is no folder on this machine, and the Hub cannot be reached; check the name and the network"
        ) from error


def find_file(source: Source, name: str) -> Path | None:
    """A file of a checkpoint on this machine, fetched from the Hub where needed; None where the checkpoint has none,
    or the Hub does not hand it out.
    """
    if Path(source.location).is_dir():
        file = Path(source.location) / name
        return file if file.is_file() else None
    cached = try_to_load_from_cache(source.location, name, revision=source.revision)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # the Hub was asked before, and has none
        return None
    try:
        return Path(hf_hub_download(source.location, name, revision=source.revision, etag_timeout=HUB_TIMEOUT))
    except Exception:  # what lies beside the weights must not keep a checkpoint from being loaded
        return None


def find_weights(source: Source) -> Path | None:
    """The folder on this machine that holds the weights of a checkpoint that was loaded."""
    if Path(source.location).is_dir():
        return Path(source.location)
    config = try_to_load_from_cache(source.location, "config.json", revision=source.revision)
    return Path(config).parent if isinstance(config, str) else None


class Loaded(NamedTuple):
    """A checkpoint in memory, with sentences that belong beside each of its answers for where it comes from."""

    model: MuraClassifier
    processor: MuraImageProcessor | ExternalProcessor
    warnings: list[str]


def load_checkpoint(source: Source, dtype: str | torch.dtype, abnormal_label: str | None) -> Loaded:
    """Loads a checkpoint; code that came with it is never run.

    Args:
        source: From `find_source`.
        dtype: Of the weights.
        abnormal_label: The label that means abnormal, for checkpoints of others; found by its words where None.

    Raises:
        CheckpointError: If it is none that can answer.
    """
    place = source.location
    pinned = {} if source.revision is None else {"revision": source.revision}
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, **pinned)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise CheckpointError(
            f"{place} needs code of its own, which is never run here; it must be of a kind that transformers knows"
        ) from error
    if config.model_type not in CLASSIFIERS:
        model, processor = load_external(place, config, dtype, pinned, abnormal_label)
        return Loaded(model, processor, [EXTERNAL_WARNING])
    if abnormal_label is not None and abnormal_label.strip().casefold() != LABELS[1]:
        raise CheckpointError(
            f"{place} is a checkpoint of mura_hf, whose labels are “{LABELS[0]}” and “{LABELS[1]}”; leave "
            f"abnormal_label “{abnormal_label}” out"
        )
    kind: Any = MuraForStudyClassification if config.model_type == "mura" else CLASSIFIERS[config.model_type]
    return Loaded(
        kind.from_pretrained(place, config=config, dtype=dtype, **pinned),
        MuraImageProcessor.from_pretrained(place, **pinned),
        [],
    )


class LazyIndex:
    """A checkpoint's index. Threads may share it.

    Args:
        source: Of the checkpoint; None where it has none, as a model that was made in memory.
        model: The checkpoint's.
        processor: Likewise.
    """

    def __init__(self, source: Source | None, model: MuraClassifier, processor: Any) -> None:
        self._source = source
        self._model, self._processor = model, processor
        self._lock = Lock()
        self._opened = False
        self._index: RetrievalIndex | None = None

    def get(self) -> RetrievalIndex | None:
        """The index; None where the checkpoint has none.

        Raises:
            CheckpointError: If the Hub cannot be reached, or there is one that is damaged, or belongs to other weights
                or settings.
        """
        with self._lock:
            if not self._opened:
                folder = None if self._source is None else _find_folder(self._source)
                if folder is not None:
                    self._index = RetrievalIndex.load(folder, self._model, self._processor)
                self._opened = True
            return self._index


def _find_folder(source: Source) -> Path | None:
    place = Path(source.location)
    if not place.is_dir():
        try:
            place = Path(
                snapshot_download(
                    source.location,
                    revision=source.revision,
                    # Not FAISS's own file: its reader was not made for those of strangers.
                    allow_patterns=[f"{FOLDER}/{name}" for name in (RECORD, CODES, ROWS)],
                    etag_timeout=HUB_TIMEOUT,
                )
            )
        except Exception as error:  # whatever the network does; it may be there the next time
            raise CheckpointError(
                f"whether {source.name} has an index of studies cannot be found out: the Hub cannot be reached; check "
                "the network"
            ) from error
    return place / FOLDER if (place / FOLDER).is_dir() else None


TOLERANCE = 1e-3
"""Largest difference of a logit in float32 that rounding explains."""

HALF_TOLERANCE = 0.05
"""As `TOLERANCE`, of half precision, which was measured to move logits by up to .008."""

UNREADABLE = (
    "The checkpoint's golden check cannot be read, so it is not known whether it answers here as it did where it was "
    "made."
)


def load_golden(source: Source) -> Golden | None:
    """The golden check of a checkpoint; None where it has none, or the Hub does not hand it out.

    Raises:
        ValueError: If there is one that cannot be read.
    """
    file = find_file(source, GOLDEN_FILE)
    return None if file is None else read_golden(file)


def golden_warning(difference: float, dtype: torch.dtype) -> str | None:
    """A sentence about logits that differ by more than rounding; None where they do not.

    Args:
        difference: Largest one of a logit.
        dtype: Of the weights.
    """
    if difference <= (TOLERANCE if dtype in (torch.float32, torch.float64) else HALF_TOLERANCE):
        return None
    return (
        f"The checkpoint's golden check differs by {difference:.3g}: on the picture that came with it, its logits are "
        "not those that it had where it was made, so its figures may not hold here; compare the versions of torch, "
        "transformers and timm with those on its card."
    )


OOD_WARNING = "This study does not look like those that the checkpoint was trained on, so its answer may mean nothing."


def load_ood_detector(source: Source) -> tuple[OODDetector | None, str | None]:
    """What tells whether a study is like those of training; None where the checkpoint has nothing of the kind.

    Returns:
        It, and a sentence for each answer where there is something that cannot be used.
    """
    file, folder = find_file(source, OOD_FILE), find_weights(source)
    if file is None or folder is None:
        return None, None
    try:
        return OODDetector.load(file, digest_weights(folder)), None
    except CheckpointError as error:
        return None, f"It is not known whether a study is like those of training: {error}."
