"""Commands in processes of their own, for a fifth of the price: forks of one that has imported the heavy libraries.

Before the fork, nothing is imported of mura_hf, nor of Hugging Face's libraries, which read the environment then. A
test that is about what is imported starts a process as usual.
"""

import atexit
import gc
import json
import os
import runpy
import select
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path
from typing import Any

_HEAVY = (
    "torch._dynamo", "torch.distributed.fsdp", "torchvision", "scipy.stats", "sklearn.metrics", "cv2", "numba",
    "pydicom", "matplotlib.figure", "pandas", "pyarrow.dataset", "pyarrow.parquet", "httpx", "tokenizers", "yaml",
    "jinja2",
)  # fmt: skip


class ForkServer:
    """A process that forks; it starts with the first command."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, *command: object, cwd: Any = None, env: Any = None) -> "subprocess.CompletedProcess[str]":
        """As `python *command` ends: a script and its arguments, or "-c", code and arguments."""
        return self.start(*command, cwd=cwd, env=env).wait()

    def start(self, *command: object, cwd: Any = None, env: Any = None) -> "Fork":
        """As `run`, not waited for; one at a time."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        folder = tempfile.TemporaryDirectory(prefix="mura_hf_fork_")
        asked = {
            "command": [str(part) for part in command],
            "cwd": os.fspath(cwd or os.getcwd()),
            "environment": dict(os.environ if env is None else env),
            "folder": folder.name,
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Fork(asked["command"], folder, self._process.stdout)

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(60)


class Fork:
    """A command that runs."""

    def __init__(self, command: list[str], folder: "tempfile.TemporaryDirectory[str]", answers: Any) -> None:
        self._command, self._folder, self._answers = command, folder, answers
        self.pid = int(answers.readline())

    def is_alive(self) -> bool:
        return not select.select([self._answers], [], [], 0)[0]

    def wait(self) -> "subprocess.CompletedProcess[str]":
        code = int(self._answers.readline())
        with self._folder:
            out, err = (Path(self._folder.name, name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(self._command, code, out, err)


def _serve() -> list[str]:
    """Forks for each line that comes; returns in a fork, with its command."""
    for name in _HEAVY:
        __import__(name)
    gc.collect()
    gc.freeze()  # no fork copies all that to look through it
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(Path(asked["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(asked["cwd"])
            os.environ.clear()
            os.environ.update(asked["environment"])
            return asked["command"]
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    os._exit(0)


def _become(command: list[str]) -> int:
    """Runs a command as Python does; gives its code."""
    try:
        if command[0] == "-c":
            sys.argv, sys.path = ["-c", *command[2:]], ["", *sys.path]
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(command[1], "<string>", "exec"), main.__dict__)
        else:
            sys.argv, sys.path = command, [str(Path(command[0]).parent), *sys.path]
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    code = _become(_serve())
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without taking the libraries apart
