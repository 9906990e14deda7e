"""The checkpoints that come with the package.

Files that are on the disk whole, or not at all.
Where the package keeps what belongs to this machine.
"""

import os
from pathlib import Path

_RESOURCES = Path(__file__).parent / "resources"

BUNDLED = {"mura-film": _RESOURCES / "film", "mura-phantom": _RESOURCES / "phantom"}
"""Name, as on its card -> folder. The name loads it wherever a checkpoint is named; a folder that is called so can be
given as "./name".
"""

DEFAULT = "mura-film"
"""The one that is meant where none is named."""


def put_file(folder: Path, name: str, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with (folder / name).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(file: Path, content: bytes) -> None:
    """Puts a file in the place of another, which stays until the new one is on the disk."""
    fresh = file.with_name(file.name + ".new")
    try:
        put_file(file.parent, fresh.name, content)
    except OSError:  # a full disk
        fresh.unlink(missing_ok=True)
        raise
    os.replace(fresh, file)
    sync_names(file.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the files of a folder are on the disk, and its names."""
    for file in folder.iterdir():
        sync_names(file)
    sync_names(folder)


def sync_names(folder: Path) -> None:
    """Waits until the names in a folder, or a file's content, are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


HOME_VARIABLE = "MURA_HOME"


def home_folder() -> Path:
    """The folder for the pixel cache and the key of split manifests; made where it is missing.

    `MURA_HOME` names it; else it is `mura_hf` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`).
    """
    named = os.environ.get(HOME_VARIABLE)
    folder = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mura_hf"
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
