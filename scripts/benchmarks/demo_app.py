"""Starts the app in a process of its own, and measures how long a visitor waits and what happens when many come.

Topics (together 10 minutes):
  demo       seconds until `python app.py` answers, until its page is painted in Chromium, and from dropping a study of
             three views to its result, for both bundled checkpoints and a DenseNet-169 at 320 px; medians of five
  demo_load  200 studies requested by eight clients at once: errors, seconds, memory, and files left on the server two
             minutes later; then 64 requests at once, of which those that exceed the queue must be refused with a
             message
  demo_memory  peak memory of a public app while visitors send 16 views of the largest size that is read, each a small
             file: one visitor, two at once, and four, of whom two wait
"""

import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import ROOT, run_benchmark
from PIL import Image
from tqdm.auto import tqdm

from mura_hf.errors import MuraError
from mura_hf.models import MuraConfig, MuraForImageClassification, MuraImageProcessor
from mura_hf.phantoms import BODY_PARTS, render_phantom

_APP = (sys.executable, "app.py")
_START_SECONDS = 180.0
_GONE_SECONDS = 150
_CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_WAIT = 120_000  # milliseconds


@dataclass(frozen=True)
class RunningApp:
    """A running app.

    Attributes:
        url: Its address.
        process: Its process.
        seconds: From its start to its first response.
        temporary: Folder for its temporary files.
    """

    url: str
    process: subprocess.Popen
    seconds: float
    temporary: Path

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return _log(self.temporary).read_text()

    @property
    def folder(self) -> Path:
        """Its own temporary folder, with uploads and examples."""
        (folder,) = self.temporary.glob("mura_hf_demo_*")
        return folder

    def tree_bytes(self) -> int:
        """Resident memory of the process and its descendants; shared pages count in each. Linux only."""
        parents, sizes = {}, {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()
                resident = int((entry / "statm").read_text().split()[1])
            except (OSError, IndexError):  # the process has ended
                continue
            parents[int(entry.name)] = int(state[1])
            sizes[int(entry.name)] = resident * os.sysconf("SC_PAGE_SIZE")
        family = {self.process.pid}
        while more := {child for child, parent in parents.items() if parent in family} - family:
            family |= more
        return sum(sizes.get(member, 0) for member in family)

    def visitors_files(self) -> list[Path]:
        """Files that the server holds for visitors."""
        return [
            file
            for file in self.folder.rglob("*")
            if file.is_file() and file.parent.name != "examples" and file.name != ".lock"
        ]


@contextmanager
def running_app(
    temporary: Path, environment: Mapping[str, str] | None = None, command: Sequence[str] = _APP
) -> Iterator[RunningApp]:
    """Runs the app on loopback at a free port, and ends it afterwards.

    Args:
        temporary: Empty folder for its temporary files and its log.
        environment: Added to the environment of this process, without MURA_CHECKPOINT and SPACE_ID.
        command: Command to run in the folder of the repository.

    Raises:
        RuntimeError: If it does not respond. The message has what it printed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name not in ("MURA_CHECKPOINT", "SPACE_ID")}
    ours = {"GRADIO_SERVER_PORT": str(port), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    with _log(temporary).open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**kept, **ours, **(environment or {})}, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None or time.monotonic() - start > _START_SECONDS:
                raise RuntimeError(f"the app did not respond: {_log(temporary).read_text()}")
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
    """Writes phantom studies; returns the files of each."""
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
    """Saves a checkpoint with random weights, as large as those of the studies."""
    torch.manual_seed(0)
    config = MuraConfig(backbone=backbone, image_size=size, body_part_head=True)
    MuraForImageClassification(config).save_pretrained(folder)
    MuraImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return folder


def measure_demo(rounds: int = 5) -> dict[str, Any]:
    """Times the start of the app, its page in Chromium, and the result for a dropped study of three views.

    Args:
        rounds: Of which medians are taken.

    Returns:
        Seconds: `start` (until the first response), `page` (until the result of an example is painted), and `answer`
        and `slowest_answer` of each checkpoint.

    Raises:
        MuraError: If there is no Chromium.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise MuraError("there is no Chromium to open the page in; install the package chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = {
            "mura-film": "mura-film",
            "mura-phantom": "mura-phantom",
            "densenet169_320": str(save_large_checkpoint(folder / "densenet169_320")),
        }
        studies = save_studies(folder / "studies", rounds + 1)
        starts: list[float] = []
        pages: list[float] = []
        answers: dict[str, list[float]] = {name: [] for name in checkpoints}
        with tqdm(total=len(checkpoints) * (rounds + 1), desc="demo") as bar:
            for name, checkpoint in checkpoints.items():
                with running_app(Path(tempfile.mkdtemp(dir=folder)), {"MURA_CHECKPOINT": checkpoint}) as app:
                    starts.append(app.seconds)
                    for files in studies:
                        page, answer = _visit(app, chromium, files)
                        pages.append(page)
                        answers[name].append(answer)
                        bar.update()
            for _ in range(rounds - len(starts)):
                with running_app(Path(tempfile.mkdtemp(dir=folder))) as app:
                    starts.append(app.seconds)
    return {
        "start": round(statistics.median(starts), 2),
        "page": round(statistics.median(pages), 2),
        "answer": {name: round(statistics.median(seconds[1:]), 2) for name, seconds in answers.items()},
        "slowest_answer": {name: round(max(seconds), 2) for name, seconds in answers.items()},
        "rounds": rounds,
    }


def _visit(app: RunningApp, chromium: str, files: list[str]) -> tuple[float, float]:
    """A new visitor opens the page and drops a study. Returns the seconds of both."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_CHROMIUM))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.monotonic()
        page.goto(app.url)
        expect(page.locator("#answer .answer")).to_be_visible(timeout=_WAIT)
        opened = time.monotonic() - start
        page.wait_for_timeout(500)
        last = Path(files[-1]).name
        start = time.monotonic()
        page.set_input_files("#uploading input[type=file]", files)
        expect(page.locator("#views figure").filter(has_text=last)).to_have_count(1, timeout=_WAIT)
        expect(page.locator("#answer .answer")).to_be_visible(timeout=_WAIT)
        answered = time.monotonic() - start
        browser.close()
    return opened, answered


def measure_load(clients: int = 8, n_studies: int = 200, crowd: int = 64) -> dict[str, Any]:
    """Sends requests of several clients at once to the app's API, then more at once than its queue takes.

    Args:
        clients: Clients that send requests at once.
        n_studies: Requests of all of them together, with three views each.
        crowd: Requests that are then sent at the same moment.

    Returns:
        `errors`; `p50` and `p95` in seconds, with uploads; `megabytes` of the app's processes after a quarter of the
        studies and after all, and `growth`; `files_left` after at most 150 seconds, and `gone_after` seconds; and of
        the
        crowd: `answered`, `refused` with a message, `other`, and `slowest_refusal` in seconds.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        studies = save_studies(folder / "studies", 16)
        temporary = folder / "temporary"
        temporary.mkdir()
        with running_app(temporary, {"MURA_CHECKPOINT": "mura-phantom"}) as app:
            requested = _request_many(app, studies, clients, n_studies)
            start = time.monotonic()
            while (left := app.visitors_files()) and time.monotonic() - start < _GONE_SECONDS:
                time.sleep(1)
            gone = {"files_left": len(left), "gone_after": round(time.monotonic() - start)}
            crowded = _request_at_once(app, studies, crowd)
            return {**requested, **gone, "crowd": crowded, "clients": clients, "studies": n_studies}


def _request_many(app: RunningApp, studies: Sequence[Sequence[str]], clients: int, count: int) -> dict[str, Any]:
    from gradio_client import Client, handle_file

    numbers, lock = itertools.count(), threading.Lock()
    seconds: list[float] = []
    errors: list[str] = []
    megabytes: dict[int, int] = {}

    def work(client: Any) -> None:
        while (number := next(numbers)) < count:
            files = [handle_file(file) for file in studies[number % len(studies)]]
            start = time.monotonic()
            try:
                client.predict(files, heatmaps=True, api_name="/predict_study")
            except Exception as error:  # every error is counted
                errors.append(f"{type(error).__name__}: {error}")
            with lock:
                seconds.append(time.monotonic() - start)
                if len(seconds) in (count // 4, count):
                    megabytes[len(seconds)] = app.tree_bytes() >> 20
                bar.update()

    with tqdm(total=count, desc="demo_load") as bar:
        callers = [Client(app.url, verbose=False) for _ in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(work, caller) for caller in callers]:
                done.result()
        for caller in callers:
            caller.close()
    early, late = (megabytes[number] for number in (count // 4, count))
    return {
        "errors": len(errors),
        "first_errors": errors[:3],
        "p50": round(statistics.median(seconds), 2),
        "p95": round(statistics.quantiles(seconds, n=20)[-1], 2),
        "megabytes": [early, late],
        "growth": round(late / early - 1, 4),
    }


def _request_at_once(app: RunningApp, studies: Sequence[Sequence[str]], count: int) -> dict[str, Any]:
    """All requests are sent at the same moment, with files that are uploaded already."""
    import httpx

    together, lock = threading.Barrier(count), threading.Lock()
    found: dict[str, Any] = {"answered": 0, "refused": 0, "other": 0, "slowest_refusal": 0.0, "words": ""}
    with httpx.Client(timeout=120) as http:
        config = http.get(f"{app.url}/config").json()
    number = next(one["id"] for one in config["dependencies"] if one["api_name"] == "predict_study")

    def request(place: int) -> None:
        with httpx.Client(timeout=300) as http:
            opened = [("files", (Path(file).name, Path(file).read_bytes())) for file in studies[place % len(studies)]]
            paths = http.post(f"{app.url}/gradio_api/upload", files=opened).json()
            views = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
            data = [views, "", "", "", None, None, True]
            together.wait()
            start = time.monotonic()
            reply = http.post(
                f"{app.url}/gradio_api/queue/join",
                json={"data": data, "fn_index": number, "session_hash": f"crowd{place}"},
            )
            waited = time.monotonic() - start
            outcome = "other"
            if reply.status_code == 200:
                outcome = "answered" if _is_completed(http, f"{app.url}/gradio_api/queue/data", place) else "other"
            elif reply.status_code == 503 and "try again" in reply.json().get("detail", ""):
                outcome = "refused"
            with lock:
                found[outcome] += 1
                if outcome == "refused":
                    found["slowest_refusal"] = max(found["slowest_refusal"], round(waited, 3))
                    found["words"] = reply.json()["detail"]

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(request, place) for place in range(count)]:
            done.result()
    return found


def measure_memory(side: int = 6320, views: int = 16, visitors: Sequence[int] = (1, 2, 4)) -> dict[str, Any]:
    """Measures the memory of a public app, all its processes together, while visitors send large views at once.

    Args:
        side: Height and width of each view in pixels.
        views: Views of one study.
        visitors: Numbers of visitors that send a study at the same time.

    Returns:
        `megabytes_sent` by one visitor; `idle`, the megabytes of the app that has answered an example; and for each
        number of visitors `above_idle` (largest number of megabytes), `seconds` of the slowest visitor, and the
        views that were `answered` and `reduced`, and an `error` if there was one.
    """
    from gradio_client import Client, handle_file

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        temporary = folder / "temporary"
        temporary.mkdir()
        files = []
        for number in range(views):
            row = np.linspace(number, 255 - number, side).astype(np.uint8)
            files.append(folder / f"view{number}.png")
            Image.fromarray(np.broadcast_to(row, (side, side))).save(files[-1])

        def visit(client: Client) -> dict[str, Any]:
            start = time.monotonic()
            try:
                study = client.predict(list(map(handle_file, files)), heatmaps=True, api_name="/predict_study")
            except Exception as error:  # a limit is a message
                return {"seconds": round(time.monotonic() - start, 1), "error": str(error)}
            reduced = sum("was reduced from" in warning for warning in study["warnings"])
            seconds = round(time.monotonic() - start, 1)
            return {"seconds": seconds, "answered": len(study["views"]), "reduced": reduced}

        with running_app(temporary, {"GRADIO_SERVER_NAME": "0.0.0.0"}) as app, ThreadPoolExecutor() as pool:
            (small,) = save_studies(folder / "small", 1)
            clients = [Client(app.url, verbose=False) for _ in range(max(visitors))]
            clients[0].predict(list(map(handle_file, small)), heatmaps=True, api_name="/predict_study")
            idle = app.tree_bytes()
            figures = {
                "megabytes_sent": round(sum(file.stat().st_size for file in files) / 1e6, 2),
                "idle": idle >> 20,
            }
            for count in visitors:
                visits = [pool.submit(visit, client) for client in clients[:count]]
                peak = 0
                while not all(done.done() for done in visits):
                    peak = max(peak, app.tree_bytes())
                    time.sleep(0.02)
                slowest = max((done.result() for done in visits), key=lambda found: found["seconds"])
                figures[f"visitors_{count}"] = {"above_idle": (peak - idle) >> 20, **slowest}
            for client in clients:
                client.close()
            return figures


def _is_completed(http: Any, url: str, place: int) -> bool:
    with http.stream("GET", url, params={"session_hash": f"crowd{place}"}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ") or "{}")
            if message.get("msg") == "process_completed":
                return bool(message["success"])
    return False


TOPICS = {
    "demo": (measure_demo, {"rounds": 1}),
    "demo_memory": (measure_memory, {"side": 1000, "views": 2, "visitors": (2,)}),
    "demo_load": (measure_load, {"clients": 2, "n_studies": 4, "crowd": 4}),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
