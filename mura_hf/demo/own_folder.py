"""A temporary folder that goes with its process, even where that was killed."""

import atexit
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: there, what a killed process left stays until the system clears it
    fcntl = None  # type: ignore[assignment]

PREFIX = "mura_hf_demo_"
LOCK = ".lock"
_YOUNG = 60.0  # seconds; a new folder is not locked at once


def make_own_folder(parent: Path | None = None) -> Path:
    """Makes a folder that only this user may enter, and removes those of processes that no longer live.

    A process holds a lock on a file in its folder for as long as it lives, which nothing outlives; so a folder whose
    lock can be taken is nobody's.

    Args:
        parent: Where; the system's folder for temporary files where None.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    for left in parent.glob(f"{PREFIX}*"):
        if _is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # open, and so locked, until the process ends
    if fcntl is not None:
        fcntl.flock(lock, fcntl.LOCK_EX)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_left(folder: Path) -> bool:
    """Whether a folder is one of ours whose process has ended."""
    if fcntl is None or not hasattr(os, "getuid"):
        return False
    try:
        known = folder.lstat()
        if not stat.S_ISDIR(known.st_mode) or known.st_uid != os.getuid():
            return False
        file = folder / LOCK if (folder / LOCK).is_file() else folder
        if time.time() - file.stat().st_mtime < _YOUNG:
            return False
        if file == folder:
            return True  # killed before it made its lock
        lock = os.open(file, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
