"""Where a checkpoint comes from: the package, a folder, or the Hub."""

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..bundled import BUNDLED, DEFAULT
from ..errors import CheckpointError

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
