"""A temporary folder that goes with its process, even where that was killed.

`SessionFiles`: what visitors brought, and when it goes.
Whether a ZIP file from a stranger may be opened.
"""

import atexit
import os
import shutil
import stat
import struct
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DatasetError

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


_YOUNG_UPLOAD = 10.0  # seconds in which an upload that nobody claimed is on its way to its handler


@dataclass
class _Session:
    """A visitor's page, or a program that asks.

    Attributes:
        seen: When it last asked for something, or its last connection ended.
        connections: Open ones.
        files: What it holds, and how often.
        folders: That the server made for it.
    """

    seen: float
    connections: int = 0
    files: Counter[Path] = field(default_factory=Counter)
    folders: list[Path] = field(default_factory=list)


class SessionFiles:
    """The folder into which Gradio puts uploads, of this process alone. Threads may share it.

    A file stays while a session holds it; files of equal name and content are one file, which several may hold. A
    session that has no open connection for `grace` seconds, or asked for nothing for `idle`, holds nothing any more.
    What nobody holds goes `unclaimed` seconds after it came, among it what is left of broken uploads.

    Args:
        folder: An empty folder.
        quota: Bytes that may lie there; what nobody holds makes room first.
        grace: Seconds.
        idle: Seconds.
        unclaimed: Seconds.
        clock: Seconds since the epoch, as the file system counts them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        quota: int = 4 << 30,
        grace: float = 60.0,
        idle: float = 3600.0,
        unclaimed: float = 90.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder.resolve()
        self.quota = quota
        self.grace = grace
        self.idle = idle
        self.unclaimed = unclaimed
        self._clock = clock
        self._lock = threading.RLock()
        self._sessions: dict[str, _Session] = {}
        self._uploads: dict[int, tuple[float, int]] = {}  # number -> start, bytes
        self._numbers = iter(range(1 << 62))
        self._protected: set[Path] = set()
        self._arrived: Counter[Path] = Counter()  # uploads of it that nobody claimed yet
        self._left: set[Path] = set()  # to be removed when no upload goes on
        self._ended = threading.Event()

    def contains(self, file: str | os.PathLike[str]) -> bool:
        """Whether a path lies in the folder, links followed."""
        return self._own(file) is not None

    def protect(self) -> None:
        """Keeps what lies in the folder now for as long as the process lives."""
        with self._lock:
            self._protected |= set(self._walk())

    def arrived(self, files: Iterable[str]) -> None:
        """Tells of files that were uploaded just now, each of which somebody is about to claim."""
        with self._lock:
            self._arrived.update(own for own in map(self._own, files) if own is not None)

    def hold(self, session: str, files: Iterable[str]) -> None:
        """Keeps files as long as a session lasts."""
        with self._lock:
            holder = self._touch(session)
            for file in files:
                own = self._own(file)
                if own is not None and own not in self._protected:
                    holder.files[own] += 1
                    self._arrived[own] = max(0, self._arrived[own] - 1)

    def let_go(self, session: str, files: Iterable[str]) -> None:
        """Takes back one holding of each file, and removes those that nobody holds any more."""
        with self._lock:
            holder = self._touch(session)
            for file in files:
                own = self._own(file)
                if own is None or own in self._protected:
                    continue
                holder.files[own] -= 1
                if holder.files[own] <= 0:
                    del holder.files[own]
                    self._remove_if_free(own)

    def release(self, session: str) -> None:
        """Removes what a session brought."""
        with self._lock:
            holder = self._sessions.pop(session, None)
            if holder is None:
                return
            for folder in holder.folders:
                shutil.rmtree(folder, ignore_errors=True)
            for file in holder.files:
                self._remove_if_free(file)
            if holder.connections:  # it is still there, and may bring more
                self._sessions[session] = _Session(self._clock(), holder.connections)

    def new_folder(self, session: str) -> Path:
        """A folder for files that the server writes for a session, and which go with it."""
        with self._lock:
            folder = Path(tempfile.mkdtemp(prefix="made-", dir=self.folder))
            self._touch(session).folders.append(folder)
            return folder

    @contextmanager
    def connected(self, session: str) -> Iterator[None]:
        """While a connection of a session is open."""
        with self._lock:
            self._touch(session).connections += 1
        try:
            yield
        finally:
            with self._lock:
                self._touch(session).connections -= 1

    @contextmanager
    def uploading(self, size: int) -> Iterator[bool]:
        """While an upload of so many bytes comes in; gives whether there is room for it."""
        with self._lock:
            number, now = next(self._numbers), self._clock()
            room = self._make_room(size, now)
            self._uploads[number] = now, size if room else 0
        try:
            yield room
        finally:
            with self._lock:
                del self._uploads[number]
                if not self._uploads:
                    left, self._left = self._left, set()
                    for file in left:
                        self._remove_if_free(file)

    def used_bytes(self) -> int:
        """What lies in the folder, and is to come by uploads that have begun."""
        with self._lock:
            return sum(size for _, size in self._walk().values()) + sum(size for _, size in self._uploads.values())

    def sweep(self) -> None:
        """Ends sessions that are gone, and removes what nobody holds for too long."""
        with self._lock:
            now = self._clock()
            for name, holder in list(self._sessions.items()):
                quiet = now - holder.seen
                if quiet > self.idle or (holder.connections == 0 and quiet > self.grace):
                    self.release(name)
            self._remove_unclaimed(now, self.unclaimed)

    def start(self, seconds: float = 10.0) -> None:
        """Sweeps every so many seconds, in a thread of its own, until `close`."""

        def keep_sweeping() -> None:
            while not self._ended.wait(seconds):
                with suppress(OSError):
                    self.sweep()

        threading.Thread(target=keep_sweeping, name="sweeper", daemon=True).start()

    def close(self) -> None:
        """Removes the folder."""
        self._ended.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _touch(self, session: str) -> _Session:
        holder = self._sessions.setdefault(session, _Session(0.0))
        holder.seen = self._clock()
        return holder

    def _own(self, file: str | os.PathLike[str]) -> Path | None:
        try:
            path = Path(file).resolve()
        except (OSError, ValueError, RuntimeError):  # a name that is too long, a zero byte, a ring of links
            return None
        return path if path.is_relative_to(self.folder) and path != self.folder else None

    def _is_held(self, file: Path) -> bool:
        return any(
            file in holder.files or any(file.is_relative_to(folder) for folder in holder.folders)
            for holder in self._sessions.values()
        )

    def _walk(self) -> dict[Path, tuple[float, int]]:
        """File -> when it came, and its bytes."""
        found = {}
        for place, _, names in os.walk(self.folder):
            for name in names:
                file = Path(place, name)
                if file == self.folder / LOCK:
                    continue
                with suppress(OSError):  # gone meanwhile
                    known = file.lstat()
                    found[file] = max(known.st_mtime, known.st_ctime), known.st_size
        return found

    def _remove_if_free(self, file: Path) -> None:
        """Removes a file, unless somebody holds it or is about to: equal files of two visitors are one."""
        if self._is_held(file) or self._arrived[file] > 0:
            return
        if self._uploads:  # which may be of this very file
            self._left.add(file)
        else:
            self._remove(file)

    def _remove(self, file: Path) -> None:
        self._arrived.pop(file, None)
        with suppress(OSError):
            file.unlink()
        with suppress(OSError):  # others lie beside it
            if file.parent != self.folder:
                file.parent.rmdir()

    def _unclaimed(self, now: float, seconds: float) -> list[tuple[float, int, Path]]:
        """Files that nobody holds, which came so long ago and before any upload that still goes on; oldest first."""
        oldest = min([now, *(start for start, _ in self._uploads.values())])
        held = set().union(*(holder.files for holder in self._sessions.values()), self._protected)
        folders = [folder for holder in self._sessions.values() for folder in holder.folders]
        return sorted(
            (came, size, file)
            for file, (came, size) in self._walk().items()
            if file not in held
            and came < min(now - seconds, oldest)
            and not any(file.is_relative_to(folder) for folder in folders)
        )

    def _remove_unclaimed(self, now: float, seconds: float, enough: int | None = None) -> int:
        removed = 0
        for _, size, file in self._unclaimed(now, seconds):
            if enough is not None and removed >= enough:
                break
            self._remove(file)
            removed += size
        return removed

    def _make_room(self, size: int, now: float) -> bool:
        lacking = self.used_bytes() + size - self.quota
        return lacking <= 0 or self._remove_unclaimed(now, _YOUNG_UPLOAD, lacking) >= lacking


MAX_DIRECTORY = 24 << 20
"""Bytes of a ZIP file's list of its members; of 200,000 members with names as MURA has them it takes as much."""

_END, _END_64 = b"PK\5\6", b"PK\6\6"
_TAIL = (1 << 16) + 22 + 20 + 56  # the longest comment, and the records that may end the list


def is_zip(file: Path) -> bool:
    """Whether a file is meant as a ZIP file: by its name, or by how it begins."""
    try:
        with file.open("rb") as opened:
            return file.suffix.lower() == ".zip" or opened.read(4) == b"PK\3\4"
    except OSError:
        return False


def check_zip(file: Path) -> None:
    """Looks at a ZIP file before its list of members is read, all of which Python takes into memory.

    Raises:
        DatasetError: If it is no ZIP file, or its list is larger than that of any worklist.
    """
    try:
        if not zipfile.is_zipfile(file):
            raise DatasetError(f"{file.name} is no ZIP file, or a damaged one; pack it again")
        with file.open("rb") as opened:
            opened.seek(0, 2)
            opened.seek(max(0, opened.tell() - _TAIL))
            tail = opened.read()
    except OSError:
        raise DatasetError(
            f"{file.name} was uploaded too long ago and is gone from the server; upload it again"
        ) from None
    sizes = [struct.unpack_from("<L", tail, place + 12)[0] for place in _places(tail, _END, 22)]
    large = [struct.unpack_from("<Q", tail, place + 40)[0] for place in _places(tail, _END_64, 56)]
    if any(size > MAX_DIRECTORY for size in [*large, *(size for size in sizes if size != 0xFFFFFFFF or not large)]):
        raise DatasetError(f"{file.name} lists far more files than a worklist has; give it in parts")


def _places(tail: bytes, mark: bytes, length: int) -> list[int]:
    """Where a record may begin: a reader takes one of these, and it does not matter which."""
    places, place = [], tail.find(mark)
    while place >= 0:
        if place + length <= len(tail):
            places.append(place)
        place = tail.find(mark, place + 1)
    return places
