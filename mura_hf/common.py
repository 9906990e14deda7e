"""What all rooms share: names of body parts and of bundled checkpoints, durable writes, suggestions, extras."""

import difflib
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

BODY_PARTS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
"""The seven body parts of MURA. `mura_hf.models` keeps a copy, because its files also work without this package."""

_RESOURCES = Path(__file__).parent / "resources"

BUNDLED = {"mura-film": _RESOURCES / "film", "mura-phantom": _RESOURCES / "phantom"}
"""Folder of each checkpoint that comes with the package. These names work wherever a checkpoint is named; a local
folder with the same name can be given as "./name".
"""

DEFAULT = "mura-film"
"""The checkpoint that is loaded if none is named."""


def put_file(folder: Path, name: str, content: bytes) -> None:
    """Writes a file and syncs it to disk."""
    with (folder / name).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(file: Path, content: bytes) -> None:
    """Replaces a file atomically: the old content stays until the new one is synced to disk."""
    fresh = file.with_name(file.name + ".new")
    try:
        put_file(file.parent, fresh.name, content)
    except OSError:  # a full disk
        fresh.unlink(missing_ok=True)
        raise
    os.replace(fresh, file)
    sync_names(file.parent)


def sync_folder(folder: Path) -> None:
    """Syncs a folder and all files directly inside it to disk."""
    for file in folder.iterdir():
        sync_names(file)
    sync_names(folder)


def sync_names(folder: Path) -> None:
    """Syncs the entries of a folder, or the content of a file, to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


HOME_VARIABLE = "MURA_HOME"


def home_folder() -> Path:
    """Returns the folder for caches and for the key of split manifests, and creates it if needed.

    It is `MURA_HOME` if that variable is set, else `mura_hf` in the cache folder of the user (`XDG_CACHE_HOME`
    or `~/.cache`).
    """
    named = os.environ.get(HOME_VARIABLE)
    folder = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mura_hf"
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `'; did you mean "..."?'` with the most similar known name, or an empty string if none is similar."""
    similar = difflib.get_close_matches(str(name), list(known), n=1)
    return f'; did you mean "{similar[0]}"?' if similar else ""


def require_extra(extra: str, *modules: str) -> None:
    """Checks that the packages of an extra are installed. Optional rooms call this before they import them.

    Args:
        extra: Name of the extra in pyproject.toml, such as "train".
        modules: Top-level modules that must be importable.

    Raises:
        ImportError: If one is missing. The message names the extra and the command that installs it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ImportError(
            f'{" and ".join(missing)} {verb} not installed; install the extra with: pip install "mura_hf[{extra}]"'
        )
