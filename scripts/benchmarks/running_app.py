"""The demo in a process of its own, for measuring and testing it, and what to ask it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from mura_hf.models import MuraConfig, MuraForImageClassification, MuraImageProcessor
from mura_hf.phantoms import BODY_PARTS, render_phantom

_ROOT = Path(__file__).parents[2]
_PAGE = (sys.executable, "app.py")
_START_SECONDS = 180.0


@dataclass(frozen=True)
class RunningApp:
    """A demo that answers.

    Attributes:
        url: Its address.
        process: As it was started.
        seconds: From its start to its first answer.
        temporary: The folder in which its own folder lies.
    """

    url: str
    process: subprocess.Popen
    seconds: float
    temporary: Path

    @property
    def log(self) -> str:
        """What it printed so far, to both outputs."""
        return _log(self.temporary).read_text()

    @property
    def folder(self) -> Path:
        """Its own folder, for uploads and examples."""
        (folder,) = self.temporary.glob("mura_hf_demo_*")
        return folder

    def tree_bytes(self) -> int:
        """Resident memory of the process and all that it started; shared pages count in each. Linux only."""
        parents, sizes = {}, {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()
                resident = int((entry / "statm").read_text().split()[1])
            except (OSError, IndexError):  # it ended meanwhile
                continue
            parents[int(entry.name)] = int(state[1])
            sizes[int(entry.name)] = resident * os.sysconf("SC_PAGE_SIZE")
        family = {self.process.pid}
        while more := {child for child, parent in parents.items() if parent in family} - family:
            family |= more
        return sum(sizes.get(member, 0) for member in family)

    def visitors_files(self) -> list[Path]:
        """What lies on the server for visitors."""
        return [
            file
            for file in self.folder.rglob("*")
            if file.is_file() and file.parent.name != "examples" and file.name != ".lock"
        ]


@contextmanager
def running_app(
    temporary: Path, environment: Mapping[str, str] | None = None, command: Sequence[str] = _PAGE
) -> Iterator[RunningApp]:
    """Runs the app, on loopback at a free port, and ends it afterwards.

    Args:
        temporary: An empty folder for its temporary files and its log.
        environment: Added to that of this process, from which what would make another app of it is left out.
        command: What to run in the repository's folder; `python app.py`, if it is not given.

    Raises:
        RuntimeError: If it does not answer; with what it printed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name not in ("MURA_CHECKPOINT", "SPACE_ID")}
    ours = {"GRADIO_SERVER_PORT": str(port), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    with _log(temporary).open("w") as output:
        process = subprocess.Popen(
            command, cwd=_ROOT, env={**kept, **ours, **(environment or {})}, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None or time.monotonic() - start > _START_SECONDS:
                raise RuntimeError(f"the app did not answer: {_log(temporary).read_text()}")
            try:
                with urllib.request.urlopen(url, timeout=10):
                    break
            except OSError:
                time.sleep(0.02)
        yield RunningApp(url, process, time.monotonic() - start, temporary)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(temporary: Path) -> Path:
    return temporary / "app.log"


def save_studies(folder: Path, n_studies: int, n_views: int = 3, size: int = 512) -> list[list[str]]:
    """Writes phantom studies; gives the files of each."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    studies = []
    for number in range(n_studies):
        part = BODY_PARTS[number % len(BODY_PARTS)]
        finding = "displaced_fracture" if number % 2 else None
        files = [folder / f"study{number}_{view + 1}.png" for view in range(n_views)]
        for view, file in enumerate(files):
            pixels = render_phantom(
                7_000_000 + number, body_part=part, view=view % 3, finding=finding, size=size
            ).pixels
            Image.fromarray(pixels).save(file)
        studies.append([str(file) for file in files])
    return studies


def save_large_checkpoint(folder: Path, backbone: str = "densenet169", size: int = 320) -> Path:
    """Saves a checkpoint of random weights, as large as those of study A."""
    torch.manual_seed(0)
    config = MuraConfig(backbone=backbone, image_size=size, body_part_head=True)
    MuraForImageClassification(config).save_pretrained(folder)
    MuraImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return folder
