"""How long a visitor of the demo waits."""

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from running_app import RunningApp, running_app, save_large_checkpoint, save_studies
from tqdm.auto import tqdm

from mura_hf.errors import DatasetError

_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_WAIT = 120_000  # milliseconds


def measure_demo(folder: Path, rounds: int = 5, progress: bool = True) -> dict[str, Any]:
    """Times the start of the app, the page in Chromium, and a study of three views, from the drop to its answer.

    Args:
        folder: To work in.
        rounds: Of which the median is taken.
        progress: Whether to show a progress bar.

    Returns:
        Seconds: `start` (to the first answer to a request), `page` (to the answered example on the screen), and
        `answer` of each checkpoint.

    Raises:
        DatasetError: If there is no Chromium.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise DatasetError("there is no Chromium, in which the page could be measured; install the package chromium")
    checkpoints = {
        "mura-film": "mura-film",
        "mura-phantom": "mura-phantom",
        "densenet169_320": str(save_large_checkpoint(folder / "densenet169_320")),
    }
    studies = save_studies(folder / "studies", rounds + 1)
    starts: list[float] = []
    pages: list[float] = []
    answers: dict[str, list[float]] = {name: [] for name in checkpoints}
    with tqdm(total=len(checkpoints) * (rounds + 1), desc="demo", disable=not progress) as bar:
        for name, checkpoint in checkpoints.items():
            temporary = Path(tempfile.mkdtemp(dir=folder))
            with running_app(temporary, {"MURA_CHECKPOINT": checkpoint}) as app:
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
    """A new visitor opens the page and drops a study; seconds of both."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_ARGUMENTS))
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
