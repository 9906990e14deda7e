"""Files that are on the disk whole, or not at all."""

import os
from pathlib import Path


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
