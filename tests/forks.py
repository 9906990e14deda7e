"""Commands in processes of their own, for a fifth of the price: forks of one that has imported the heavy libraries.

Before the fork, nothing is imported of mura_hf, nor of Hugging Face's libraries, which read the environment then. A
test that is about what is imported starts a process as usual.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

_HEAVY = (
    "torch._dynamo", "torch.distributed.fsdp", "torchvision", "scipy.stats", "sklearn.metrics", "cv2", "numba",
    "pydicom", "matplotlib.figure", "pandas", "pyarrow.dataset", "pyarrow.parquet", "httpx", "tokenizers", "yaml",
    "jinja2",
)  # fmt: skip


class ForkServer:
    """Starts forks; the process that forks starts with the first one."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(_HEAVY))

    def run(self, *command: object, cwd: Any = None, env: Any = None) -> "subprocess.CompletedProcess[str]":
        """As `python *command` ends: a script and its arguments, or "-c", code and arguments."""
        return self.start(*command, cwd=cwd, env=env).wait()

    def start(self, *command: object, cwd: Any = None, env: Any = None) -> "Fork":
        """As `run`, not waited for."""
        return Fork(self._context, [str(part) for part in command], cwd or os.getcwd(), dict(env or os.environ))


class Fork:
    """A command that runs."""

    def __init__(self, context: Any, command: list[str], cwd: Any, env: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mura_hf_fork_")
        self._command = command
        self._process = context.Process(target=_become, args=(command, os.fspath(cwd), env, self._folder.name))
        self._process.start()
        self.pid, self.is_alive = self._process.pid, self._process.is_alive

    def wait(self) -> "subprocess.CompletedProcess[str]":
        self._process.join()
        with self._folder:
            out, err = (Path(self._folder.name, name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(self._command, self._process.exitcode, out, err)


def _become(command: list[str], cwd: str, env: dict[str, str], folder: str) -> None:
    """Runs a command as Python does."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if command[0] == "-c":
        sys.argv, sys.path = ["-c", *command[2:]], ["", *sys.path]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(command[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path = command, [str(Path(command[0]).parent), *sys.path]
        runpy.run_path(command[0], run_name="__main__")
