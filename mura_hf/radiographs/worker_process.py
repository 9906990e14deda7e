"""The parent's end of a worker process: starts it, and exchanges frames with it until a deadline."""

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
