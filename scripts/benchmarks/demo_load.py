"""The demo with many visitors at once."""

import itertools
import json
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from running_app import RunningApp, running_app, save_studies
from tqdm.auto import tqdm

_GONE_SECONDS = 150


def measure_demo_load(
    folder: Path, clients: int = 8, n_studies: int = 200, crowd: int = 64, progress: bool = True
) -> dict[str, Any]:
    """Has clients ask a running app at once through its named endpoint, then more than its queue takes.

    Args:
        folder: To work in.
        clients: Of `gradio_client`, that ask at once.
        n_studies: Asked by all together, of three views each.
        crowd: Programs that then ask at the same moment.
        progress: Whether to show a progress bar.

    Returns:
        `errors`; `p50` and `p95` in seconds, uploads included; `megabytes` of the app's processes after a quarter of
        the studies and after all, and `growth`; `files_left` two minutes after the clients went, and `gone_after`
        seconds; and of the crowd: `answered`, `refused` in words, `other`, and `slowest_refusal` in seconds.
    """
    studies = save_studies(folder / "studies", 16)
    temporary = folder / "temporary"
    temporary.mkdir()
    with running_app(temporary, {"MURA_CHECKPOINT": "mura-phantom"}) as app:
        asked = _ask_many(app, studies, clients, n_studies, progress)
        start = time.monotonic()
        while (left := app.visitors_files()) and time.monotonic() - start < _GONE_SECONDS:
            time.sleep(1)
        gone = {"files_left": len(left), "gone_after": round(time.monotonic() - start)}
        return {**asked, **gone, "crowd": _crowd(app, studies, crowd), "clients": clients, "studies": n_studies}


def _ask_many(
    app: RunningApp, studies: Sequence[Sequence[str]], clients: int, count: int, progress: bool
) -> dict[str, Any]:
    from gradio_client import Client, handle_file  # type: ignore[import-untyped]

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
            except Exception as error:  # whatever it is, it is counted
                errors.append(f"{type(error).__name__}: {error}")
            with lock:
                seconds.append(time.monotonic() - start)
                if len(seconds) in (count // 4, count):
                    megabytes[len(seconds)] = app.tree_bytes() >> 20
                bar.update()

    with tqdm(total=count, desc="demo_load", disable=not progress) as bar:
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


def _crowd(app: RunningApp, studies: Sequence[Sequence[str]], count: int) -> dict[str, Any]:
    """All ask at the same moment, with files that are uploaded already."""
    import httpx

    together, lock = threading.Barrier(count), threading.Lock()
    found: dict[str, Any] = {"answered": 0, "refused": 0, "other": 0, "slowest_refusal": 0.0, "words": ""}
    with httpx.Client(timeout=120) as http:
        config = http.get(f"{app.url}/config").json()
    number = next(one["id"] for one in config["dependencies"] if one["api_name"] == "predict_study")

    def ask(place: int) -> None:
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
                outcome = "answered" if _is_answered(http, f"{app.url}/gradio_api/queue/data", place) else "other"
            elif reply.status_code == 503 and "try again" in reply.json().get("detail", ""):
                outcome = "refused"
            with lock:
                found[outcome] += 1
                if outcome == "refused":
                    found["slowest_refusal"] = max(found["slowest_refusal"], round(waited, 3))
                    found["words"] = reply.json()["detail"]

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(ask, place) for place in range(count)]:
            done.result()
    return found


def _is_answered(http: Any, url: str, place: int) -> bool:
    with http.stream("GET", url, params={"session_hash": f"crowd{place}"}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ") or "{}")
            if message.get("msg") == "process_completed":
                return bool(message["success"])
    return False
