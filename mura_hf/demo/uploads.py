"""Uploaded files: the private folder that holds them, and how long they stay.

Gradio's `delete_cache` is not used: it removes files by age alone, so it would either remove the files of an open page
or keep those of a closed one, and it does not know the partial files of broken uploads.
"""

import atexit
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "mura_hf_demo_"
LOCK = ".lock"
EVERYBODY = ""
"""Stands for all clients together, as the name of a client."""
CALL = "call "
"""Names of calls begin with it. They hold files like sessions, but do not own them."""

GRACE = 60.0
"""Seconds after its last connection until a session ends."""

IDLE = 3600.0
"""Seconds after its last request until a session ends whose page is still open."""

UNCLAIMED = 90.0
"""Seconds after its arrival until a file is removed that nobody holds."""

_MIN_AGE = 60.0  # seconds; a new folder is not locked at once
_CLAIM_SECONDS = 10.0  # time between the upload of a file and the request that names it
_BLOCK = 4 << 10  # bytes that a file counts at least, so that the quota also limits empty files
_CLIENT_BLOCK = 256 << 10  # the same in the share of a client, which so has at most some thousand files


class QuotaExceededError(Exception):
    """The folder has no room for an upload."""


@dataclass
class _Session:
    """A browser page or a program."""

    seen: float  # time of its last request, or of the end of its last connection
    connections: int = 0
    held: Counter[Path] = field(default_factory=Counter)  # files and folders, and how often each is held


@dataclass(eq=False)
class Upload:
    """An upload, with a folder of its own whose name cannot be guessed: who knows a file's path may fetch the file."""

    folder: Path
    clients: Mapping[str, float]  # who sends it, each with its share of the quota
    received: int = 0  # bytes
    running: bool = True


class Uploads:
    """The folder for uploads and for files made for visitors. Thread-safe.

    A file stays while a session holds it: see `GRACE`, `IDLE` and `UNCLAIMED`.

    Args:
        folder: Folder that belongs to this process.
        quota: Maximum number of bytes in the folder. Files that nobody holds are removed to make room.
        clock: Returns seconds since the epoch, like the times of files.
    """

    def __init__(
        self,
        folder: Path,
        *,
        quota: int = 4 << 30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder.resolve()
        self.quota = quota
        self._clock = clock
        self._lock = threading.RLock()
        self._sessions: dict[str | None, _Session] = {}  # None: the server itself, whose files always stay
        self._uploads: dict[Path, Upload] = {}  # those that are going on, and finished ones whose files are still here
        self._stored: Counter[str] = Counter()  # bytes of each client and of everybody, without running uploads
        self._measured = float("-inf")  # when that was found
        self._closed = threading.Event()

    def may_use(self, session: str | None, file: str | os.PathLike[str]) -> bool:
        """Whether a session may name a file: it is inside the folder, and no other session holds it."""
        path = self._resolve(file)
        if path is None:
            return False
        with self._lock:
            owners = [name for name in self._holders(path) if name is None or not name.startswith(CALL)]
        return not owners or session in owners or None in owners

    def protect(self) -> None:
        """Keeps all files that are in the folder now until the process ends."""
        with self._lock:
            self._sessions[None] = _Session(float("inf"), 1, Counter(self._files()))

    def hold(self, session: str, files: Iterable[str] = ()) -> None:
        """Keeps files while a session lasts, and notes that the session is active."""
        with self._lock:
            self._touch(session).held.update(filter(None, map(self._resolve, files)))

    def let_go(self, session: str, files: Iterable[str]) -> None:
        """Undoes one `hold` of each file, and removes the files that nobody holds any more."""
        with self._lock:
            held = self._touch(session).held
            for path in filter(None, map(self._resolve, files)):
                held[path] -= 1
                if held[path] <= 0:
                    del held[path]
                    self._remove_if_free(path)

    def release(self, session: str | None) -> None:
        """Ends a session and removes the files that only it holds."""
        with self._lock:
            ended = self._sessions.pop(session, None)
            if ended is None:
                return
            for path in ended.held:
                self._remove_if_free(path)
            if ended.connections:  # the page is still open and may upload more
                self._sessions[session] = _Session(self._clock(), ended.connections)

    def new_folder(self, session: str) -> Path:
        """Makes a folder for files that the server writes for a session. It is removed with the session."""
        folder = self.folder / f"made-{secrets.token_hex(16)}"
        with self._lock:
            folder.mkdir(mode=0o700)
            self._touch(session).held[folder] += 1
            return folder

    @contextmanager
    def connected(self, session: str) -> Iterator[None]:
        """Use it while a connection of a session is open."""
        with self._lock:
            self._touch(session).connections += 1
        try:
            yield
        finally:
            with self._lock:
                self._touch(session).connections -= 1

    @contextmanager
    def uploading(self, clients: Mapping[str, float], size: int = 0) -> Iterator[Upload]:
        """Use it during an upload. Its folder is removed if the upload ends with an exception.

        Args:
            clients: Who sends it: names of clients, each with the share of the quota that it may use.
            size: Bytes that the client declares. They are not reserved: only what `receive` counts takes room.

        Raises:
            QuotaExceededError: If there is no room for `size` bytes.
        """
        upload = Upload(self.folder / f"upload-{secrets.token_hex(16)}", clients)
        self._check_room(upload, size)
        with self._lock:
            self._uploads[upload.folder] = upload
        try:
            yield upload
        except BaseException:
            self._remove(upload.folder)
            raise
        finally:
            with self._lock:
                upload.running, self._measured = False, float("-inf")

    def receive(self, upload: Upload, size: int) -> None:
        """Counts bytes of a running upload that have arrived.

        Raises:
            QuotaExceededError: If there is no room for them.
        """
        upload.received += size
        self._check_room(upload)

    def used_bytes(self, client: str = EVERYBODY, *, max_age: float = 0.0) -> int:
        """Bytes of a client's files and of its running uploads.

        Args:
            client: Name of the client; everybody by default.
            max_age: Seconds since the folder was last searched after which it is searched again.
        """
        with self._lock:
            if self._clock() - self._measured >= max_age:
                self._measure()
            running = [one for one in self._uploads.values() if one.running and client in (EVERYBODY, *one.clients)]
            return self._stored[client] + sum(one.received for one in running)

    def sweep(self) -> None:
        """Ends sessions that are gone, and removes files that nobody has claimed in time."""
        with self._lock:
            now = self._clock()
            for name, session in list(self._sessions.items()):
                if now - session.seen > (IDLE if session.connections else GRACE):
                    self.release(name)
            self._remove_unclaimed(UNCLAIMED)

    def start(self, seconds: float = 10.0) -> None:
        """Sweeps regularly in a background thread until `close`."""

        def keep_sweeping() -> None:
            while not self._closed.wait(seconds):
                with suppress(OSError):
                    self.sweep()

        threading.Thread(target=keep_sweeping, name="sweeper", daemon=True).start()

    def close(self) -> None:
        """Removes the folder."""
        self._closed.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _touch(self, name: str) -> _Session:
        session = self._sessions.setdefault(name, _Session(0.0))
        session.seen = self._clock()
        return session

    def _resolve(self, file: str | os.PathLike[str]) -> Path | None:
        """The real path of a file in the folder; None if it is elsewhere.

        Also None for the lock, and for folders: one that a call names would be removed with the files of others in it.
        """
        try:
            path = Path(file).resolve()
        except (OSError, ValueError, RuntimeError):  # a name that is too long, a zero byte, a loop of links
            return None
        named = path.is_relative_to(self.folder) and path != self.folder / LOCK and not path.is_dir()
        return path if named else None

    def _files(self) -> dict[Path, tuple[float, int]]:
        """Time of arrival and size of each file, except those of running uploads."""
        found = {}
        for place, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not self._is_running(Path(place, name))]
            for name in names:
                with suppress(OSError):  # removed meanwhile
                    info = os.lstat(os.path.join(place, name))
                    found[Path(place, name)] = max(info.st_mtime, info.st_ctime), info.st_size
        found.pop(self.folder / LOCK, None)
        return found

    def _is_running(self, folder: Path) -> bool:
        return folder in self._uploads and self._uploads[folder].running

    def _measure(self) -> None:
        self._stored, self._measured = Counter(), self._clock()
        present: set[Path] = set()
        for path, (_, size) in self._files().items():
            self._stored[EVERYBODY] += max(size, _BLOCK)
            upload = self._uploads.get(self.folder / path.relative_to(self.folder).parts[0])
            if upload is not None:
                present.add(upload.folder)
                self._stored.update(dict.fromkeys(upload.clients, max(size, _CLIENT_BLOCK)))
        self._uploads = {place: one for place, one in self._uploads.items() if one.running or place in present}

    def _check_room(self, upload: Upload, size: int = 0) -> None:
        shares = {EVERYBODY: 1.0, **upload.clients}

        def fits(max_age: float) -> bool:
            return all(
                self.used_bytes(client, max_age=max_age) + size <= share * self.quota
                for client, share in shares.items()
            )

        with self._lock:
            if fits(max_age=1.0):
                return
            if self.used_bytes(max_age=0.1) + size > self.quota:
                self._remove_unclaimed(_CLAIM_SECONDS)
            if not fits(max_age=0.1):
                raise QuotaExceededError

    def _holders(self, path: Path) -> list[str | None]:
        places = (path, *path.parents)
        return [name for name, session in self._sessions.items() if any(place in session.held for place in places)]

    def _remove_if_free(self, path: Path) -> None:
        if not self._holders(path):
            self._remove(path)

    def _remove(self, path: Path) -> None:
        self._measured = float("-inf")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):  # other files are in the same folder
            for folder in path.parents:
                if folder == self.folder:
                    break
                folder.rmdir()

    def _remove_unclaimed(self, seconds: float) -> None:
        """Removes files that nobody holds and that arrived so long ago."""
        latest = self._clock() - seconds
        for path, (came, _) in self._files().items():
            if came < latest and not self._holders(path):
                self._remove(path)


def make_private_folder(parent: Path | None = None) -> Path:
    """Makes a folder that only this user may enter, and removes the folders of processes that were killed.

    Each process holds a lock on a file in its folder until it ends. A folder whose lock is free belongs to no process.

    Args:
        parent: Where to make it; the system's folder for temporary files by default.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    for folder in parent.glob(f"{PREFIX}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
    lock = FileLock(folder / LOCK)
    lock.acquire()
    atexit.register(_end, folder, lock)
    return folder


def _end(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()


def _is_abandoned(folder: Path) -> bool:
    if not hasattr(os, "getuid"):  # Windows, where the system clears them
        return False
    try:
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            return False
        has_lock = (folder / LOCK).is_file()
        if time.time() - (folder / LOCK if has_lock else folder).stat().st_mtime < _MIN_AGE:
            return False
        if not has_lock:
            return True  # killed before it made its lock
        with FileLock(folder / LOCK, timeout=0):
            return True
    except (OSError, Timeout):
        return False
