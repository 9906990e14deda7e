"""Starts the app in a process of its own, and measures how long a visitor waits and what happens when many come.

Topics (together 15 minutes):
  demo       seconds until `python app.py` answers, until its page is painted in Chromium, and from dropping a study of
             three views to its result, for both bundled checkpoints and a DenseNet-169 at 320 px; medians of five
  demo_load  200 studies requested by eight clients at once: errors, seconds, memory, and files left on the server two
             minutes later; then 64 requests at once, of which those that exceed the queue must be refused with a
             message
  demo_memory  peak memory of a public app while visitors send 16 views of the largest size that is read, each a small
             file: one visitor, two at once, and four, of whom two wait
  demo_attacks  attacks on a public app, while another visitor uploads a study and waits for its answer: whether the
             visitor gets it and in how many seconds, growth of memory, and what the attacker gets; Linux only
"""

import itertools
import json
import os
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
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
        study = Path(files[0]).name.rpartition("_")[0]
        start = time.monotonic()
        page.locator("input[type=file]:has(+ #new-study)").set_input_files(files)
        # A checkpoint for films may answer without some of the phantoms.
        expect(page.locator("#views figure").filter(has_text=study).first).to_be_attached(timeout=_WAIT)
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
    together, lock = threading.Barrier(count), threading.Lock()
    found: dict[str, Any] = {"answered": 0, "refused": 0, "other": 0, "slowest_refusal": 0.0, "words": ""}

    def request(place: int) -> None:
        with httpx.Client(base_url=app.url, timeout=300) as http:
            views = _upload(http, studies[place % len(studies)])
            together.wait()
            start = time.monotonic()
            reply = _ask(http, "predict_study", views, "mura-phantom", session=f"crowd{place}")
            waited = time.monotonic() - start
            outcome = "other"
            if reply.status_code == 200:
                outcome = "answered" if _last_message(http, f"crowd{place}")["success"] else "other"
            elif reply.status_code == 503 and "try again" in reply.json().get("detail", "").lower():
                outcome = "refused"
            with lock:
                found[outcome] += 1
                if outcome == "refused":
                    found["slowest_refusal"] = max(found["slowest_refusal"], round(waited, 3))
                    found["words"] = reply.json()["detail"]

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(request, range(count)))
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


def _upload(http: httpx.Client, files: Sequence[str]) -> list[dict[str, Any]]:
    """Uploads files; returns the argument of an endpoint that names them."""
    opened = [("files", (Path(file).name, Path(file).read_bytes())) for file in files]
    reply = http.post("/gradio_api/upload", files=opened).raise_for_status()
    return [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in reply.json()]


def _ask(http: httpx.Client, name: str, files: Any, checkpoint: str = "", *, session: str) -> httpx.Response:
    """Calls an endpoint through the queue."""
    dependencies = http.get("/config").json()["dependencies"]
    number = next(one["id"] for one in dependencies if one["api_name"] == name)
    data = {
        "predict_study": [files, checkpoint, "", "", None, None, True],
        "similar": [files, 5, None, checkpoint, "", ""],
        "worklist": [files, checkpoint, "", "", None],
    }[name]
    return http.post("/gradio_api/queue/join", json={"data": data, "fn_index": number, "session_hash": session})


def _last_message(http: httpx.Client, session: str) -> dict[str, Any]:
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ") or "{}")
            if message.get("msg") == "process_completed":
                return message
    return {"success": False, "output": {"error": "the stream ended"}}


def measure_attacks(connections: int = 50, megabytes: int = 256, sessions: int = 1000) -> dict[str, Any]:
    """Attacks a public app from one address, while a visitor with another address wants an answer for a study.

    Args:
        connections: Number of stalled uploads, and of calls that wait at once; twenty times as many send nothing.
        megabytes: Size of the bodies and of each member of the ZIP bombs.
        sessions: Number of sessions, and of empty files.

    Returns:
        For each attack: `visitor`, "answered" or the reason why not; `seconds` that the visitor waited; `megabytes`
        that the processes of the app grew at most; `attacker`, what the attacker got.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        [study] = save_studies(folder / "study", 1)
        bombs = _save_bombs(folder, megabytes)
        attacks: dict[str, Callable[[str], Any]] = {
            "no attack": lambda url: None,
            "stalled uploads": partial(_stall, count=connections, head=_STALLED),
            "silent connections": partial(_stall, count=20 * connections, head=b""),
            "empty files": partial(_upload_empty_files, count=sessions),
            "calls that wait": partial(_fill_queue, count=connections, study=study),
            "sessions": partial(_open_sessions, count=sessions),
            "file of another visitor": partial(_find_file, file=study[0]),
            **{
                f"body of {route}": partial(_post_large, route=route, megabytes=megabytes)
                for route in ("component_server", "cancel", "upload?upload_id=1", "stream/1")
            },
            **{
                f"{bomb.stem} to {endpoint}": partial(_send_bomb, bomb=bomb, endpoint=endpoint)
                for bomb in bombs
                for endpoint in ("predict_study", "similar", "worklist")
            },
        }
        found = {}
        for number, (title, attack) in enumerate(tqdm(attacks.items(), desc="demo_attacks")):
            temporary = folder / f"temporary{number}"
            temporary.mkdir()
            environment = {"MURA_PUBLIC": "1", "GRADIO_SERVER_NAME": "0.0.0.0", "MURA_CHECKPOINT": "mura-phantom"}
            with running_app(temporary, environment) as app:
                _visit_as_program(app.url, study)  # the first answer takes longer
                found[title] = _attack(app, attack, study)
        return found


_STALLED = b"""POST /gradio_api/upload HTTP/1.1
host: mura.example.org
content-type: multipart/form-data; boundary=x
content-length: 21474000

--x
content-disposition: form-data; name="files"; filename="a.png"

""".replace(b"\n", b"\r\n")
_ATTACKER = "127.0.0.2"


def _attack(app: RunningApp, attack: Callable[[str], Any], study: Sequence[str]) -> dict[str, Any]:
    before, sizes, ended = app.tree_bytes(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            sizes.append(app.tree_bytes())

    with ThreadPoolExecutor(2) as pool:
        watching, attacking = pool.submit(watch), pool.submit(attack, app.url)
        time.sleep(1)
        start = time.monotonic()
        visitor = _visit_as_program(app.url, study)
        seconds = time.monotonic() - start
        attacker = attacking.result()
        ended.set()
        watching.result()
    grown = max(0, max(sizes) - before) >> 20
    return {"visitor": visitor, "seconds": round(seconds, 1), "megabytes": grown, "attacker": attacker}


def _visit_as_program(url: str, study: Sequence[str]) -> str:
    try:
        with httpx.Client(base_url=url, timeout=60) as http:
            reply = _ask(http, "predict_study", _upload(http, study), "mura-phantom", session="visitor")
            if reply.status_code != 200:
                return f"{reply.status_code}: {reply.text}"
            message = _last_message(http, "visitor")
            return "answered" if message["success"] else str(message["output"]["error"])
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"


def _attacker(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, transport=httpx.HTTPTransport(local_address=_ATTACKER))


def _stall(url: str, *, count: int, head: bytes, seconds: float = 15.0) -> dict[str, int]:
    """Opens connections that send nothing more. Counts those that the server ends."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            with suppress(OSError):
                address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
                connection = stack.enter_context(socket.create_connection(address, 5, (_ATTACKER, 0)))
                connection.sendall(head)
                opened.append(connection)
        time.sleep(seconds)
        return {"connections": len(opened), "ended": len(select.select(opened, [], [], 0)[0])}


def _upload_empty_files(url: str, *, count: int) -> dict[str, int]:
    """Uploads empty files, as many at once as Gradio allows."""
    files = [("files", (f"{index}.png", b"")) for index in range(count)]
    with _attacker(url) as http:
        replies = [http.post("/gradio_api/upload", files=files) for _ in range(20)]
        return {"files": sum(len(reply.json()) for reply in replies if reply.status_code == 200)}


def _fill_queue(url: str, *, count: int, study: Sequence[str]) -> dict[str, int]:
    with _attacker(url) as http:
        uploaded = [_upload(http, study) for _ in range(count)]
        replies = [_ask(http, "predict_study", views, session=f"{views}"[-90:]) for views in uploaded]
        return dict(Counter(str(reply.status_code) for reply in replies))


def _open_sessions(url: str, *, count: int) -> dict[str, int]:
    with _attacker(url) as http:
        number = next(one["id"] for one in http.get("/config").json()["dependencies"] if not one["queue"])
        calls = [{"data": [], "fn_index": number, "session_hash": f"session {index}"} for index in range(count)]
        replies = [http.post("/gradio_api/queue/join", json=call) for call in calls]
        return dict(Counter(str(reply.status_code) for reply in replies))


def _find_file(url: str, *, file: str) -> dict[str, int]:
    """Asks for a file of the other visitor, whose content and name the attacker knows."""
    with _attacker(url) as http, httpx.Client(base_url=url) as visitor:
        _upload(visitor, [file])
        path = Path(http.post("/gradio_api/upload", files={"files": ("b.png", Path(file).read_bytes())}).json()[0])
        names = {"present": Path(file).name, "absent": "absent.png"}
        return {key: http.get(f"/gradio_api/file={path.with_name(name)}").status_code for key, name in names.items()}


def _post_large(url: str, *, route: str, megabytes: int) -> str:
    def body() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        yield from itertools.repeat(b"0" * (1 << 20), megabytes)
        yield b"\r\n--x--\r\n"

    kind = "application/json" if route == "cancel" else "multipart/form-data; boundary=x"
    try:
        with _attacker(url) as http:
            return str(http.post(f"/gradio_api/{route}", content=body(), headers={"content-type": kind}).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def _save_bombs(folder: Path, megabytes: int) -> list[Path]:
    """A ZIP file with 16 views that are much larger when unpacked, and ZIP files inside each other."""
    bomb, nested = folder / "bomb.zip", folder / "nested.zip"
    content = bytes(megabytes << 20)
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as opened:
        for view in range(16):
            opened.writestr(f"study/{view}.png", content)
    inner = bomb.read_bytes()
    for depth in range(4):
        with zipfile.ZipFile(nested, "w", zipfile.ZIP_DEFLATED) as opened:
            for copy in range(16):
                opened.writestr(f"study/{depth}{copy}.zip", inner)
        inner = nested.read_bytes()
    return [bomb, nested]


def _send_bomb(url: str, *, bomb: Path, endpoint: str) -> str:
    try:
        with _attacker(url) as http:
            files = _upload(http, [str(bomb)])
            reply = _ask(http, endpoint, files[0] if endpoint == "worklist" else files, session="bomb")
            return str(_last_message(http, "bomb")["output"])[:300] if reply.status_code == 200 else reply.text
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"


TOPICS = {
    "demo": (measure_demo, {"rounds": 1}),
    "demo_memory": (measure_memory, {"side": 1000, "views": 2, "visitors": (2,)}),
    "demo_load": (measure_load, {"clients": 2, "n_studies": 4, "crowd": 4}),
    "demo_attacks": (measure_attacks, {"connections": 2, "megabytes": 1, "sessions": 2}),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
