"""The parent's end of a worker process: starts it, and exchanges frames with it until a deadline.

`GuardedReader`: reads files from strangers in processes of their own.
"""

import fcntl
import json
import os
import queue
import re
import select
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RadiographError
from .radiograph import BODY_PARTS, HASH_LENGTH, MAX_PIXELS, Radiograph, check_radiograph, hash_key

_PROGRAM = Path(__file__).with_name("guarded_worker.py")
_LENGTH = struct.Struct(">I")
_MOST_JSON = 1 << 16  # bytes of an answer before its pixels
_PIPE_BYTES = 1 << 20  # Linux's largest for everybody; its default of 64 KiB makes many turns of a radiograph

# A decoder needs no secret of the server: what is not named here stays out of its environment. One thread keeps the
# address space small, of which every thread takes a part.
_PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "VIRTUAL_ENV")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerLostError(Exception):
    """The worker ended, or answered with something that is no answer."""


class WorkerProcess:
    """One fresh interpreter that runs `guarded_worker.py`.

    Args:
        memory_bytes: Address space that a file may take above what the worker has at its start.

    Attributes:
        files: How many it has answered for.
        pid: Of the process.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.files = 0
        self._is_ready = False
        environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ} | _ONE_THREAD
        # -P: the script's folder stays off sys.path, where its modules would stand for others of the same name. A
        # session of its own: Ctrl-C at the server's terminal is for the server.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._input, self._output):
            os.set_blocking(pipe, False)
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def peak_bytes(self) -> int:
        """Most memory that it has held resident at once; 0 where the system does not tell."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        return max([1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")] or [0])

    def wait_until_ready(self, deadline: float) -> None:
        """Waits until it has imported what it needs and limited itself.

        Raises:
            TimeoutError: If it has not by `deadline`, of `time.monotonic`.
            WorkerLostError: If it ended.
        """
        if not self._is_ready:
            self._is_ready = self.receive(deadline).get("ready") is True
            if not self._is_ready:
                raise WorkerLostError

    def send(self, request: dict[str, Any], contents: bytes, deadline: float) -> None:
        """Sends a request, and a file's contents behind it.

        Raises:
            TimeoutError: If it is not taken by `deadline`.
            WorkerLostError: If the process ended.
        """
        coded = json.dumps(request).encode()
        for part in (_LENGTH.pack(len(coded)) + coded, contents):
            left = memoryview(part)
            while left:
                self._wait(self._input, select.POLLOUT, deadline)
                try:
                    left = left[os.write(self._input, left) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise WorkerLostError from None

    def receive(self, deadline: float) -> dict[str, Any]:
        """Takes the JSON of an answer.

        Raises:
            TimeoutError: If there is none by `deadline`.
            WorkerLostError: If the process ended, or what came is no JSON object of modest length.
        """
        (length,) = _LENGTH.unpack(self.receive_bytes(_LENGTH.size, deadline))
        if length > _MOST_JSON:
            raise WorkerLostError
        try:
            answer = json.loads(self.receive_bytes(length, deadline))
        except (ValueError, RecursionError):
            raise WorkerLostError from None
        if not isinstance(answer, dict):
            raise WorkerLostError
        return answer

    def receive_bytes(self, length: int, deadline: float) -> bytearray:
        """Takes so many bytes.

        Raises:
            TimeoutError: If they have not come by `deadline`.
            WorkerLostError: If the process ended before.
        """
        received = bytearray(length)
        left = memoryview(received)
        while left:
            self._wait(self._output, select.POLLIN, deadline)
            try:
                count = os.readv(self._output, [left])
            except BlockingIOError:
                continue
            except OSError:
                raise WorkerLostError from None
            if not count:
                raise WorkerLostError
            left = left[count:]
        return received

    def end(self) -> None:
        """Kills the process and waits for its end."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    @staticmethod
    def _wait(pipe: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            raise TimeoutError


_START_SECONDS = 60.0
_MOST_TEXT = 2000  # characters of a sentence
_MOST_WARNINGS = 8
_MARK = re.compile(f"[0-9a-f]{{{HASH_LENGTH}}}")
_FORMATS = ("PNG", "JPEG", "DICOM")


class GuardedReader:
    """Reads radiographs in worker processes with limits, so that no file can end or fill the process that asks.

    A worker is a fresh interpreter (never a fork) without torch and transformers. If it crashes over a file, is
    killed or takes too long, that file ends in a `RadiographError` and the next is read by a new worker. What a
    worker answers is not trusted either: it is checked like a file, and never unpickled.

    Threads may share a reader: each file has a worker to itself, and waits for one where all are busy.

    Args:
        workers: Processes at most; each is started when first needed, or by `start`.
        seconds: Time that one file may take.
        memory_bytes: Address space that one file may take above what a worker has at its start. Kept to on Linux;
            macOS ignores it.
        files_per_worker: After so many files a worker is replaced, lest what a decoder leaks adds up.

    Attributes:
        ended: Workers that were lost or killed over a file.
        peak_bytes: Most memory that a worker has held resident, as seen after each file; 0 where the system does not
            tell.
    """

    def __init__(
        self, *, workers: int = 2, seconds: float = 5.0, memory_bytes: int = 1 << 30, files_per_worker: int = 200
    ) -> None:
        self.seconds = seconds
        self.memory_bytes = memory_bytes
        self.files_per_worker = files_per_worker
        self.ended = 0
        self.peak_bytes = 0
        self._count = workers
        self._idle: queue.LifoQueue[WorkerProcess | None] = queue.LifoQueue()  # None: one that may be started
        for _ in range(workers):
            self._idle.put(None)
        self._closing = threading.Lock()

    def start(self) -> None:
        """Starts the workers that do not run yet, and does not wait until they are ready."""
        idle = []
        while not self._idle.empty():
            try:
                idle.append(self._idle.get_nowait())
            except queue.Empty:
                break
        for worker in idle:
            self._idle.put(self._living(worker))

    def close(self) -> None:
        """Ends the workers, each after the file that it is at; a file read later starts one again."""
        with self._closing:  # two that each hold half of the workers would wait for ever
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
        """Process ids of the idle workers, for measuring them."""
        with self._idle.mutex:
            return [worker.pid for worker in self._idle.queue if worker is not None]

    def read(self, source: str | Path | bytes, *, name: str | None = None, frame: int | None = None) -> Radiograph:
        """Reads one view; arguments and answer are those of `read_radiograph`.

        Raises:
            RadiographError: If it cannot be read within the limits; the message says why.
        """
        path = None if isinstance(source, bytes | bytearray) else Path(source)
        contents = bytes(source) if isinstance(source, bytes | bytearray) else b""
        name = name or (path.name if path else "the picture")
        request = {
            "name": name,
            "frame": frame,
            "path": None if path is None else str(path.absolute()),
            "bytes": len(contents),
            "alarm": int(self.seconds) + 2,
            "hash_key": hash_key(),
        }
        answered = False
        worker = self._idle.get()
        try:
            worker = self._living(worker)
            worker.wait_until_ready(time.monotonic() + _START_SECONDS)  # the start is not the file's time
            deadline = time.monotonic() + self.seconds
            worker.send(request, contents, deadline)
            read = _take_answer(worker, deadline)
            answered = True
        except TimeoutError:
            read = f"{name} took longer than {self.seconds:g} seconds to decode and was given up; export it smaller."
        except WorkerLostError:
            read = f"{name} made its decoder fail, so it is damaged or needs too much memory; copy or export it again."
        finally:
            if worker is not None:
                worker.files += 1
                self.peak_bytes = max(self.peak_bytes, worker.peak_bytes())
                if not answered:  # what is left in the pipes would answer for the next file
                    self.ended += 1
                if not answered or worker.files >= self.files_per_worker:
                    worker.end()
                    worker = None
            self._idle.put(worker)
        if isinstance(read, str):
            raise RadiographError(read)
        return check_radiograph(read, name)

    def _living(self, worker: WorkerProcess | None) -> WorkerProcess:
        if worker is not None and not worker.is_alive():
            worker.end()  # closes its pipes
            worker = None
        return worker or WorkerProcess(self.memory_bytes)


def _take_answer(worker: WorkerProcess, deadline: float) -> Radiograph | str:
    """The radiograph, or the sentence about the file. A worker that was taken over may answer anything: types, sizes
    and words are checked before they are used.
    """
    answer = worker.receive(deadline)
    if "error" in answer:
        return _text(answer["error"])
    shape, warnings = answer.get("shape"), answer.get("warnings")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)):
        raise WorkerLostError
    if shape[0] * shape[1] > MAX_PIXELS or not isinstance(warnings, list) or len(warnings) > _MOST_WARNINGS:
        raise WorkerLostError
    bit_depth, source_format, body_part = (answer.get(key) for key in ("bit_depth", "source_format", "body_part"))
    side, mark = answer.get("side"), answer.get("patient_hash")
    known = source_format in _FORMATS and body_part in (None, *BODY_PARTS) and side in (None, "left", "right")
    known = known and (mark is None or (isinstance(mark, str) and _MARK.fullmatch(mark) is not None))
    if type(bit_depth) is not int or not 1 <= bit_depth <= 16 or not known:
        raise WorkerLostError
    coded = worker.receive_bytes(4 * shape[0] * shape[1], deadline)
    pixels = np.frombuffer(coded, "<f4").reshape(shape).astype(np.float32, copy=False)
    return Radiograph(
        pixels, bit_depth, str(source_format), body_part, tuple(map(_text, warnings)), side=side, patient_hash=mark
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise WorkerLostError
    return value
