"""`GuardedReader` reads untrusted files in worker processes with limits on time and memory.

The protocol: a request is a message of JSON, which the content of the file follows if it has no path; an answer is a
message of JSON, which float32 pixels follow if the file could be read. Nothing is pickled. `guarded_worker` implements
the other side.
"""

import contextlib
import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ..common import BODY_PARTS
from ..errors import RadiographError
from .radiograph import HASH_BYTES, HASH_KEY, MAX_PIXELS, Radiograph, check_radiograph
from .reading import READABLE_FORMATS

_PROGRAM = Path(__file__).with_name("guarded_worker.py")
_MAX_JSON = 1 << 16  # bytes of an answer before its pixels
_MAX_TEXT = 2000  # characters of a sentence
_MAX_WARNINGS = 8
_BUFFER_BYTES = 1 << 20  # of a connection; the usual 200 KiB make transfers slow
_START_SECONDS = 60.0
_FILES_PER_WORKER = 200  # a worker is replaced after so many, so that memory leaks of decoders do not accumulate
_HASH = re.compile(f"[0-9a-f]{{{2 * HASH_BYTES}}}")

# A decoder needs no secrets of the server, so only these variables are passed on. A single thread keeps the address
# space small, since every thread reserves a part of it.
_PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "VIRTUAL_ENV")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class GuardedReader:
    """Reads radiographs in worker processes, so that no file can crash the calling process or exhaust its memory.

    A worker is a fresh interpreter (not a fork) without torch and transformers. If it crashes, is killed or takes too
    long, that file ends in a `RadiographError`, and a new worker reads the next file. The answer of a worker is not
    trusted either: it is checked like a file and never unpickled.

    Threads may share a reader. Each file gets a worker of its own, and waits if all workers are busy.

    Args:
        workers: Maximum number of processes. Each one is started when it is first needed, or by `start`.
        seconds: Time limit per file.
        memory_bytes: Address space that one file may take on top of what a worker uses at its start. Enforced on
            Linux; macOS ignores it.

    Attributes:
        ended: Number of workers that crashed or were killed over a file.
    """

    def __init__(self, *, workers: int = 2, seconds: float = 5.0, memory_bytes: int = 1 << 30) -> None:
        self.seconds = seconds
        self.memory_bytes = memory_bytes
        self.ended = 0
        self._count = workers
        self._idle: queue.LifoQueue[_WorkerProcess | None] = queue.LifoQueue()  # None: a worker that is not started
        for _ in range(workers):
            self._idle.put(None)
        self._closing = threading.Lock()

    def start(self) -> None:
        """Starts all workers without waiting until they are ready."""
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for worker in idle:
            self._idle.put(self._ensure_alive(worker))

    def close(self) -> None:
        """Ends the workers after their current file. Reading another file starts a worker again."""
        with self._closing:  # two threads that each hold half of the workers would wait forever
            workers = [self._idle.get() for _ in range(self._count)]
            for worker in workers:
                if worker is not None:
                    worker.end()
                self._idle.put(None)

    def __enter__(self) -> "GuardedReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def worker_pids(self) -> list[int]:
        """Returns the process ids of the idle workers."""
        with self._idle.mutex:
            return [worker.pid for worker in self._idle.queue if worker is not None]

    def read(
        self,
        source: str | Path | bytes,
        *,
        name: str | None = None,
        frame: int | None = None,
        max_pixels: int | None = None,
    ) -> Radiograph:
        """Reads one view. Arguments and result are those of `read_radiograph`.

        Raises:
            RadiographError: If it cannot be read within the limits. The message says why.
        """
        path = None if isinstance(source, bytes | bytearray) else Path(source)
        name = name or (path.name if path else "the image")
        request = {
            "name": name,
            "frame": frame,
            "max_pixels": max_pixels,
            "path": None if path is None else str(path.absolute()),
            "alarm": int(self.seconds) + 2,
        }
        answered = False
        worker = self._idle.get()
        try:
            worker = self._ensure_alive(worker)
            worker.wait_until_ready()  # not counted as time of the file
            with worker.limit(self.seconds):
                worker.connection.send_bytes(json.dumps(request).encode())
                if isinstance(source, bytes | bytearray):
                    worker.connection.send_bytes(source)
                result = _receive_radiograph(worker.connection, max_pixels or MAX_PIXELS)
            answered = True
        except TimeoutError:
            result = f"{name} took longer than {self.seconds:g} seconds to decode and was given up; export it smaller."
        except WorkerLostError:
            result = f"{name} crashed its decoder: it is damaged or needs too much memory; copy or export it again."
        finally:
            if worker is not None:
                worker.files += 1
                self.ended += not answered
                # Data that is left in the connection would be taken for the answer to the next file.
                if not answered or worker.files >= _FILES_PER_WORKER:
                    worker.end()
                    worker = None
            self._idle.put(worker)
        if isinstance(result, str):
            raise RadiographError(result)
        return check_radiograph(result, name)

    def _ensure_alive(self, worker: "_WorkerProcess | None") -> "_WorkerProcess":
        if worker is not None and not worker.is_alive():
            worker.end()  # closes its connection
            worker = None
        return worker or _WorkerProcess(self.memory_bytes)


class WorkerLostError(Exception):
    """The worker ended or sent an invalid answer."""


class _WorkerProcess:
    """A fresh interpreter that runs `guarded_worker.py`. `files` counts the files that it was given."""

    def __init__(self, memory_bytes: int) -> None:
        self.files = 0
        self._is_ready = self._is_late = False
        self._socket, theirs = socket.socketpair()
        self.connection = Connection(os.dup(self._socket.fileno()))
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        # -P keeps the folder of the script off sys.path, where its modules would shadow others of the same name. The
        # new session keeps Ctrl-C in the terminal of the server away from the worker.
        environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM), str(memory_bytes), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # decoders may print
                pass_fds=[theirs.fileno()],
                env=environment | _ONE_THREAD | {"MURA_HASH_KEY": HASH_KEY.hex()},
                start_new_session=True,
            )
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self.connection.close()
        self._socket.close()
        self._process.wait()

    def wait_until_ready(self) -> None:
        """Waits until the worker has imported its decoders and applied its limits."""
        if not self._is_ready:
            with self.limit(_START_SECONDS):
                self._is_ready = self.connection.recv_bytes(_MAX_JSON) == b"ready"
            if not self._is_ready:
                raise WorkerLostError

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Kills the worker if an exchange takes longer.

        Raises:
            TimeoutError: If it does.
            WorkerLostError: If the worker ends, or sends a longer message than was asked for.
        """
        timer, is_lost = threading.Timer(seconds, self._stop), False
        timer.start()
        try:
            yield
        except (EOFError, OSError):
            is_lost = True
        finally:
            timer.cancel()
            timer.join()
        if self._is_late:
            raise TimeoutError
        if is_lost:
            raise WorkerLostError

    def _stop(self) -> None:
        self._is_late = True
        self._process.kill()
        # A process that a compromised worker started may hold the connection open; then the kill ends no transfer.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT


# A compromised worker may answer anything, so each field is checked before it is used.
_IS_VALID: dict[str, Callable[[Any], bool]] = {
    "shape": lambda shape: (
        isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)
    ),
    "bit_depth": lambda bits: type(bits) is int and 1 <= bits <= 16,
    "source_format": lambda source_format: source_format in READABLE_FORMATS,
    "body_part": lambda part: part in (None, *BODY_PARTS),
    "side": lambda side: side in (None, "left", "right"),
    "patient_hash": lambda code: code is None or (isinstance(code, str) and _HASH.fullmatch(code) is not None),
    "is_coloured": lambda value: type(value) is bool,
    "warnings": lambda texts: isinstance(texts, list) and len(texts) <= _MAX_WARNINGS and all(map(_is_text, texts)),
}


def _receive_radiograph(connection: Connection, max_pixels: int = MAX_PIXELS) -> Radiograph | str:
    """Receives the radiograph, or the error message about the file."""
    try:
        answer = json.loads(connection.recv_bytes(_MAX_JSON))
    except (ValueError, RecursionError):
        raise WorkerLostError from None
    if not isinstance(answer, dict):
        raise WorkerLostError
    error = answer.get("error")
    if _is_text(error):
        return str(error)
    fields: dict[str, Any] = {key: answer.get(key) for key in _IS_VALID}
    if error is not None or not all(is_valid(fields[key]) for key, is_valid in _IS_VALID.items()):
        raise WorkerLostError
    height, width = fields.pop("shape")
    if height * width > max_pixels:
        raise WorkerLostError
    received = connection.recv_bytes(4 * height * width)
    if len(received) < 4 * height * width:
        raise WorkerLostError
    pixels = np.frombuffer(received, "<f4").reshape(height, width).astype(np.float32)
    return Radiograph(pixels, **{**fields, "warnings": tuple(fields["warnings"])})
