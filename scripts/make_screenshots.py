"""Takes screenshots of the demo in its states, at four widths, light and dark, to look at after a change.

With `--readme`, only those of the READMEs are taken, into `.github`. Needs Chromium and the extras `demo` and `dev`.
"""

import argparse
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIZES = {"390": (390, 844), "768": (768, 1024), "1280": (1280, 800), "1920": (1920, 1080)}
_WAIT = 120_000  # milliseconds


def visit_states(page: Any, folder: Path) -> Iterator[str]:
    """Brings an open page into one state after the other, and yields their names.

    Args:
        page: The page, as Playwright has it.
        folder: Empty folder for files to upload.
    """
    from playwright.sync_api import expect

    from mura_hf.demo.examples import load_examples
    from mura_hf.demo.templates import HOW_SURE, MODELS, NEW_STUDY, READ, READ_STUDIES, WORKLIST

    films = [Path(film.files[0]) for film in load_examples("film")]
    bad, archive = folder / "letter.pdf", folder / "monday.zip"
    bad.write_bytes(b"%PDF-1.7")
    with zipfile.ZipFile(archive, "w") as opened:
        for number, film in enumerate(films, 1):
            opened.write(film, f"patient {number}/{film.name}")
        opened.write(bad, "patient 7/letter.pdf")
    answer, read = page.locator("#answer .answer"), page.get_by_role("tab", name=READ)

    def upload(*files: Path) -> None:
        page.get_by_test_id(f"{NEW_STUDY}-upload-button").set_input_files(list(map(str, files)))

    def wait(number: int = 1, *, name: str = "") -> None:
        expect(page.locator("#views .view")).to_have_count(number, timeout=_WAIT)
        expect(page.locator("#views .name").first).to_contain_text(name, timeout=_WAIT)
        expect(answer).to_be_focused(timeout=_WAIT)

    yield "first"
    seen: set[str] = set()
    for number, film in enumerate(films):
        page.locator(f"[data-example='{number}']").click()
        wait(name=film.name)
        band = answer.get_attribute("class").split()[-1]
        if band not in seen:
            yield band
        seen.add(band)
    sure = page.get_by_role("button", name=HOW_SURE)
    sure.click()
    sure.evaluate("part => part.scrollIntoView()")
    yield "sure"
    sure.click()
    page.locator("[data-example='6']").click()
    wait(3)
    yield "views"
    upload(films[0], bad)
    wait(name=films[0].name)
    yield "unreadable"
    upload(Path(load_examples("worklist")[0].files[0]))
    wait(name="phantom")
    yield "refused"
    page.locator("#anyway").click()
    expect(page.locator("#answer .probability")).to_be_visible(timeout=_WAIT)
    wait(name="phantom")
    yield "anyway"
    page.get_by_role("tab", name=WORKLIST).click()
    page.evaluate("scrollTo(0, 0)")
    yield "archive"
    page.set_input_files("#worklist-upload input[type=file]", str(archive))
    expect(page.locator("#worklist-upload")).to_contain_text("monday", timeout=_WAIT)
    page.get_by_role("button", name=READ_STUDIES).click()
    expect(page.locator("#worklist-progress")).to_contain_text("Read 7 of 7", timeout=_WAIT)
    page.locator("#worklist-progress").evaluate("part => part.scrollIntoView()")
    yield "worklist"
    page.locator("mura-worklist .open").first.click()
    expect(read).to_have_attribute("aria-selected", "true", timeout=_WAIT)
    wait()
    yield "opened"
    page.get_by_role("tab", name=MODELS).click()
    page.evaluate("scrollTo(0, 0)")
    yield "models"
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compared .side")).to_have_count(2, timeout=_WAIT)
    page.locator("#comparing").evaluate("part => part.scrollIntoView()")
    yield "compare"


def take_screenshots(folder: Path, sizes: Sequence[str], themes: Sequence[str], states: Sequence[str] = ()) -> None:
    """Writes `STATE-WIDTH-THEME.png` for each state; for all states if none is named."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))
    from demo_app import running_app

    folder.mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as name, running_app(Path(name)) as app, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for size, theme in ((size, theme) for size in sizes for theme in themes):
            width, height = SIZES[size]
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.goto(f"{app.url}/?__theme={theme}")
            page.locator("#answer .answer").wait_for(timeout=_WAIT)
            with tempfile.TemporaryDirectory() as files:
                for state in visit_states(page, Path(files)):
                    page.wait_for_timeout(500)
                    if not states or state in states:
                        page.screenshot(path=folder / f"{state}-{size}-{theme}.png")
                    if [state] == list(states[-1:]):  # in the order of the states
                        break
            page.close()
        browser.close()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("screenshots"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--themes", nargs="+", choices=("light", "dark"), default=["light", "dark"])
    parser.add_argument(
        "--states", nargs="+", default=[], help="names of states, such as first and worklist; default all"
    )
    parser.add_argument("--readme", action="store_true", help="write .github/screenshot*.png instead")
    arguments = parser.parse_args(argv)
    if not arguments.readme:
        take_screenshots(arguments.output_dir, arguments.sizes, arguments.themes, arguments.states)
        return
    with tempfile.TemporaryDirectory() as name:
        for theme, state, file in (("light", "first", "screenshot"), ("dark", "worklist", "screenshot-worklist")):
            take_screenshots(Path(name), ["1280"], [theme], [state])
            shutil.copyfile(Path(name) / f"{state}-1280-{theme}.png", ROOT / ".github" / f"{file}.png")


if __name__ == "__main__":
    main()
