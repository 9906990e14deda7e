"""The real app in a real browser."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mura_hf.phantoms import render_phantom
from tests.inference.strangers import save_stranger

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="there is no Chromium on this machine"
)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
ROOT = Path(__file__).parents[2]
WAIT = 60_000  # ms


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The app's address; the app runs as `python app.py` does it, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("app") / "log.txt"
    environment = {name: value for name, value in os.environ.items() if name != "MURA_CHECKPOINT"}
    environment["GRADIO_SERVER_PORT"] = str(port)
    with log.open("w") as output:
        app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert app.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(url, timeout=1):
                    break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"the app did not answer: {log.read_text()}")
        yield url
    finally:
        app.terminate()
        app.wait(20)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.foreign = []
    page.on("request", lambda request: page.foreign.append(request.url))
    page.goto(address)
    expect(page.locator("#answer .empty")).to_be_visible(timeout=WAIT)
    yield page
    outside = [url for url in page.foreign if not url.startswith((address, "data:", "blob:"))]
    page.close()
    assert outside == []


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Two views of an abnormal wrist as a hospital exports them: 16 bits, of which 12 are used."""
    folder = tmp_path_factory.mktemp("views")
    files = []
    for view in range(2):
        pixels = render_phantom(612_345, body_part="wrist", view=view, finding="displaced_fracture").pixels
        file = folder / f"wrist_{view}.png"
        Image.fromarray(pixels.astype(np.uint16) * 16).save(file)
        files.append(str(file))
    return files


def _upload(page: Page, *files: str) -> None:
    page.set_input_files("input[type=file]", list(files))


def _choose(page: Page, name: str) -> None:
    page.get_by_role("button", name="Model", exact=False).first.click()
    page.get_by_label("Name, Hub name or local folder").click()
    page.get_by_role("option", name=name).click()
    page.get_by_role("button", name="Load the model").click()
    expect(page.locator("#model-state")).to_contain_text(name, timeout=WAIT)


def test_without_a_checkpoint_the_app_says_why_it_does_not_start(tmp_path):
    environment = {**os.environ, "MURA_CHECKPOINT": str(tmp_path / "nowhere")}
    done = subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "cannot start without a checkpoint" in done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_films_and_examples_are_read_by_what_was_trained_on_their_like(page, views):
    answer = page.locator("#answer .answer")
    _upload(page, *views)
    # To the checkpoint of real films a phantom is strange, and its word about one is held back until asked for.
    expect(answer).to_contain_text("Not answered", timeout=WAIT)
    expect(answer).to_contain_text("bundled: mura-film")
    expect(page.locator("#views img.film")).to_have_count(2)
    expect(page.locator("#views img.heat")).to_have_count(0)
    assert "P(abnormal)" not in page.locator("#views").inner_text() + answer.inner_text()
    page.get_by_role("button", name="Show the answer anyway").click()
    expect(answer).to_contain_text("Abnormal means fractured", timeout=WAIT)
    expect(page.locator("#answer .notice")).to_contain_text("does not look like those")
    expect(page.locator("#views img.heat")).to_have_count(2)
    expect(page.get_by_role("button", name="Show the answer anyway")).to_have_count(0)
    page.get_by_label("Remove this file").first.click()
    expect(page.locator("#views .view")).to_have_count(1, timeout=WAIT)
    expect(answer).to_contain_text("Not answered")  # it is another study now
    page.get_by_role("button", name="Show the answer anyway").click()
    expect(page.locator("#views .probability")).to_have_count(1, timeout=WAIT)
    # One view is the whole study, and has its probability.
    assert page.locator("#views .probability").inner_text() in answer.locator(".chance").inner_text()
    page.get_by_label("Clear").first.click()
    page.locator("#examples button").nth(1).click()
    expect(answer).to_contain_text("bundled: mura-phantom", timeout=WAIT)
    expect(page.locator("#answer .notice")).to_contain_text("trained on synthetic phantoms")
    _choose(page, "mura-film")
    expect(answer).to_contain_text("bundled: mura-film", timeout=WAIT)


def test_a_study_gets_one_answer_and_each_view_its_overlay(page, views):
    _choose(page, "mura-phantom")
    _upload(page, *views)
    answer = page.locator("#answer .answer")
    expect(answer).to_be_visible(timeout=WAIT)
    expect(answer).to_contain_text(re.compile(r"P\(abnormal\) (above |below )?0\.\d\d"))
    expect(answer).to_contain_text("wrist")
    expect(page.locator("#answer .notice")).to_contain_text("trained on synthetic phantoms")
    expect(page.locator("#views .view")).to_have_count(2)
    expect(page.locator("#views img.heat")).to_have_count(2)
    chances = [float(text.split()[-1]) for text in page.locator("#views .probability").all_inner_texts()]
    study = float(re.search(r"P\(abnormal\) (?:above |below )?([\d.]+)", answer.inner_text())[1])
    assert min(chances) - 0.011 <= study <= max(chances) + 0.011
    flagged = sum(chance > 0.5 for chance in chances)
    expect(page.locator("#views .box")).to_have_count(flagged)
    assert page.locator("#views img.film").first.evaluate("image => image.complete && image.naturalWidth > 100")


def test_a_bad_file_is_named_and_the_good_one_answered(page, views, tmp_path):
    bad = tmp_path / "x.png"
    bad.write_text("Dear doctor, please find enclosed")
    _upload(page, views[0], str(bad))
    expect(page.locator("#answer .notice.bad")).to_contain_text("x.png is not a PNG, JPEG or DICOM file", timeout=WAIT)
    expect(page.locator("#answer .answer")).to_be_visible()
    expect(page.locator("#views .view")).to_have_count(1)


def test_only_a_bad_file_leaves_no_answer(page, tmp_path):
    bad = tmp_path / "x.png"
    bad.write_text("Dear doctor")
    _upload(page, str(bad))
    expect(page.locator("#answer .notice.bad")).to_contain_text("no view left to read", timeout=WAIT)
    expect(page.locator("#views .view")).to_have_count(0)


def test_an_example_is_read_with_a_click(page):
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#answer .answer")).to_contain_text("hand", timeout=WAIT)
    expect(page.locator("#views .view")).to_have_count(2)
    expect(page.locator("#views .name").first).to_contain_text("hand")
    page.locator("#examples button").first.click()
    expect(page.locator("#answer .answer")).to_contain_text("Abnormal: flagged", timeout=WAIT)


def test_an_example_is_put_away_for_a_study_of_ones_own(page, views):
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#views .view")).to_have_count(2, timeout=WAIT)
    _upload(page, views[0])
    expect(page.locator("#views .name")).to_have_text(["wrist_0.png"], timeout=WAIT)
    expect(page.get_by_text("The example was put away")).to_be_visible()
    _upload(page, views[1])  # a further view of the same study
    expect(page.locator("#views .name")).to_have_text(["wrist_0.png", "wrist_1.png"], timeout=WAIT)


def test_clearing_the_box_clears_the_answer(page, views):
    _upload(page, *views)
    expect(page.locator("#views .view")).to_have_count(2, timeout=WAIT)
    page.get_by_label("Remove this file").first.click()
    expect(page.locator("#views .view")).to_have_count(1, timeout=WAIT)
    page.get_by_label("Clear").first.click()
    expect(page.locator("#answer .empty")).to_be_visible(timeout=WAIT)
    expect(page.locator("#views .view")).to_have_count(0)


def test_opacity_and_boxes_are_set_in_the_page(page, views):
    _upload(page, *views)
    page.get_by_role("button", name="Show the answer anyway").click(timeout=WAIT)
    heat = page.locator("#views img.heat").first
    expect(heat).to_have_css("opacity", "0.5", timeout=WAIT)
    slider = page.locator("#opacity input[type=range]")
    slider.focus()
    slider.press("End")
    expect(heat).to_have_css("opacity", "1")
    slider.press("Home")
    expect(heat).to_have_css("opacity", "0")
    page.locator("#opacity input[type=number]").fill("75")
    expect(heat).to_have_css("opacity", "0.75")
    page.locator("#opacity").get_by_label("Reset").click()
    expect(heat).to_have_css("opacity", "0.5")
    if page.locator("#views .box").count():
        page.get_by_label("Show boxes of flagged views").uncheck()
        expect(page.locator("#views .box").first).to_have_css("opacity", "0")


def test_the_body_part_may_be_given(page, views):
    _choose(page, "mura-phantom")
    _upload(page, views[0])
    expect(page.locator("#answer .answer")).to_contain_text("Body part found", timeout=WAIT)
    page.get_by_label("Body part").click()
    page.get_by_role("option", name="elbow").click()
    expect(page.locator("#answer .answer")).to_contain_text("elbow (given by you)", timeout=WAIT)


def test_a_model_is_changed_by_name_and_trouble_is_said_in_words(page, views, checkpoint):
    _upload(page, views[0])
    expect(page.locator("#answer .answer")).to_contain_text("bundled", timeout=WAIT)
    page.get_by_role("button", name="Model", exact=False).first.click()
    name = page.get_by_label("Name, Hub name or local folder")
    name.fill("nobody/nothing")
    page.get_by_role("button", name="Load the model").click()
    expect(page.locator("#model-state")).to_contain_text("Not loaded", timeout=WAIT)
    expect(page.locator("#answer .answer")).to_contain_text("bundled")
    name.fill(str(checkpoint))
    page.get_by_role("button", name="Load the model").click()
    expect(page.locator("#model-state")).to_contain_text("resnet10t", timeout=WAIT)
    expect(page.locator("#answer .answer")).to_contain_text(f"folder: {checkpoint.name}", timeout=WAIT)
    expect(page.locator("#answer .notice")).to_have_count(0)


def test_someone_elses_model_is_asked_about_and_then_read(page, views, tmp_path):
    folder = save_stranger(tmp_path / "vit", "vit", labels=("LABEL_0", "LABEL_1"))
    _upload(page, views[0])
    expect(page.locator("#answer .answer")).to_contain_text("bundled", timeout=WAIT)
    page.get_by_role("button", name="Model", exact=False).first.click()
    page.get_by_label("Name, Hub name or local folder").fill(str(folder))
    page.get_by_role("button", name="Load the model").click()
    state = page.locator("#model-state")
    expect(state).to_contain_text("“LABEL_0” and “LABEL_1”: which of them means abnormal?", timeout=WAIT)
    page.get_by_label("Abnormal label").fill("LABEL_1")
    page.get_by_role("button", name="Load the model").click()
    expect(state).to_contain_text("someone else's checkpoint", timeout=WAIT)
    expect(page.locator("#answer .answer")).to_contain_text("Abnormal means what this checkpoint", timeout=WAIT)
    expect(page.locator("#answer .notice")).to_contain_text("not calibrated")
    expect(page.locator("#views img.heat")).to_have_count(1)


def test_the_disclaimer_stays_in_sight(page, views):
    _upload(page, *views)
    expect(page.locator("#views .view")).to_have_count(2, timeout=WAIT)
    page.mouse.wheel(0, 3000)
    expect(page.locator("#disclaimer")).to_contain_text("Not a medical device")
    expect(page.locator("#disclaimer")).to_be_in_viewport()


@pytest.mark.parametrize(("theme", "dark"), [("light", False), ("dark", True)])
def test_light_and_dark(browser, address, views, theme, dark, tmp_path):
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(f"{address}/?__theme={theme}")
    expect(page.locator("#answer .empty")).to_be_visible(timeout=WAIT)
    _upload(page, views[0])
    expect(page.locator("#answer .answer")).to_be_visible(timeout=WAIT)
    page.screenshot(path=tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        corner = np.asarray(image.convert("L"))[-40:, :4].mean()
    assert (corner < 90) == dark
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
