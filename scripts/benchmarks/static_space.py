"""Measures the static page in Chromium, served without special headers (needs npm, and films of FracAtlas).

Topics (together half an hour):
  static_page  bytes of the page, seconds until it is ready, seconds from a drop to the answer, agreement with
               `StudyPredictor` on films, boxes included, and serious findings of axe
  static_worklist  memory of the renderer after 100 and 1,000 films of a worklist, with a small untrained network
"""

import functools
import http.server
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from demo_app import _CHROMIUM
from harness import DATA, run_benchmark

from mura_hf import MuraConfig, MuraForImageClassification, MuraImageProcessor, StudyPredictor
from mura_hf.explain import Box
from mura_hf.hub import stage_static_space

FILMS = DATA / "fracatlas" / "images"
_WAIT = 300_000  # milliseconds
_SIZES = ((1280, 800), (390, 844))


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def open_page(folder: Path) -> Iterator[Any]:
    """Serves a folder, and yields its page in a new browser, with the answer for the first example."""
    from playwright.sync_api import sync_playwright

    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(_CHROMIUM))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"http://127.0.0.1:{server.server_port}")
        page.wait_for_selector("body[data-ready]", state="attached", timeout=_WAIT)
        page.wait_for_selector("#answer .card", timeout=_WAIT)
        yield page
        browser.close()
        server.shutdown()


def drop(page: Any, files: Sequence[Path]) -> tuple[float, float]:
    """Gives files to the page; returns the probability, and the seconds until the answer is shown."""
    from playwright.sync_api import expect

    page.evaluate("document.querySelector('#answer').dataset.probability = ''")
    begun = time.monotonic()
    page.set_input_files("#files", list(files))
    expect(page.locator("#answer")).to_have_attribute("data-probability", re.compile("."), timeout=_WAIT)
    return float(page.get_attribute("#answer", "data-probability")), time.monotonic() - begun


def measure_page(checkpoint: str = "mura-film", films: Path = FILMS, n_films: int = 30) -> dict[str, Any]:
    from axe_playwright_python.sync_playwright import Axe

    chosen = sorted(films.rglob("*.jpg"))
    chosen = chosen[:: max(1, len(chosen) // n_films)][:n_films]
    predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu", runtime="torch")
    with tempfile.TemporaryDirectory() as place:
        folder = stage_static_space(Path(place, "page"), title="benchmark", checkpoint=checkpoint)
        sizes = json.loads((folder / "page.json").read_text())["sizes"]
        total = sum(
            file.stat().st_size for file in folder.rglob("*") if file.is_file() and "runtime" not in file.parts
        )
        begun = time.monotonic()
        with open_page(folder) as page:
            ready = time.monotonic() - begun
            differences, overlaps, seconds = [], [], []
            for film in chosen:
                expected = predictor([film])
                probability, took = drop(page, [film])
                differences.append(abs(probability - expected.probability))
                seconds.append(took)
                if page.locator(".box").count() and expected.views[0].box is not None:
                    overlaps.append(_overlap(page, expected.views[0]))
            found = []
            for width, height in _SIZES:
                page.set_viewport_size({"width": width, "height": height})
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme)
                    violations = Axe().run(page).response["violations"]
                    found += [one["id"] for one in violations if one["impact"] in ("serious", "critical")]
            threads = page.inner_text("#loading")
    return {
        "megabytes": {
            "page": (total - sizes["onnx/model.onnx"]) / 1e6,
            "model": sizes["onnx/model.onnx"] / 1e6,
            "runtime": sizes["runtime/ort-wasm-simd-threaded.wasm"] / 1e6,
        },
        "seconds_until_first_answer": ready,
        "engine": threads,
        "films": len(chosen),
        "largest_difference": max(differences),
        "boxes": len(overlaps),
        "smallest_overlap": min(overlaps, default=None),
        "seconds_from_drop_to_answer": statistics.median(seconds),
        "serious_findings_of_axe": sorted(set(found)),
    }


def _overlap(page: Any, view: Any) -> float:
    """Intersection over union of the box on the page and that of a prediction."""
    shares = page.evaluate(
        """() => {
            const { left, top, width, height } = document.querySelector('.box').style;
            const [x, y, w, h] = [left, top, width, height].map((length) => parseFloat(length) / 100);
            return [x, y, x + w, y + h];
        }"""
    )
    sides = [view.width, view.height] * 2
    first, second = Box(*(share * side for share, side in zip(shares, sides, strict=True))), view.box
    across = min(first.x1, second.x1) - max(first.x0, second.x0)
    down = min(first.y1, second.y1) - max(first.y0, second.y0)
    common = max(across, 0) * max(down, 0)
    areas = [(one.x1 - one.x0) * (one.y1 - one.y0) for one in (first, second)]
    return common / (sum(areas) - common)


def measure_worklist(films: Path = FILMS, n_films: int = 1000) -> dict[str, Any]:
    chosen = sorted(films.rglob("*.jpg"))[:n_films]
    marks = [n_films // 10, n_films]
    with tempfile.TemporaryDirectory() as place:
        checkpoint, memory = Path(place, "checkpoint"), {}
        torch.manual_seed(0)
        config = MuraConfig(backbone="resnet10t", backbone_kwargs={"channels": [8, 16, 24, 32]}, image_size=64)
        MuraForImageClassification(config).save_pretrained(checkpoint)
        MuraImageProcessor(size={"height": 64, "width": 64}).save_pretrained(checkpoint)
        folder = stage_static_space(Path(place, "page"), title="benchmark", checkpoint=str(checkpoint))
        with open_page(folder) as page:
            begun = time.monotonic()
            page.set_input_files("#files", chosen)
            for mark in marks:
                while int(re.match(r"\d*", page.inner_text("#worklist-state"))[0] or 0) < mark:
                    page.wait_for_timeout(200)
                memory[mark] = _renderer_memory(page)
            seconds = time.monotonic() - begun
    return {"megabytes": memory, "growth": memory[marks[1]] / memory[marks[0]], "seconds": seconds}


def _renderer_memory(page: Any) -> float:
    """Resident memory of the largest renderer of this browser in MB, workers and WebAssembly included."""
    processes = page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    sizes = []
    for process in processes:
        if process["type"] == "renderer":
            status = Path(f"/proc/{process['id']}/status").read_text()
            sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024)
    return max(sizes)


TOPICS = {"static_page": (measure_page, None), "static_worklist": (measure_worklist, None)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
