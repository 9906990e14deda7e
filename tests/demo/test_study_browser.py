"""The tab "Read a study", as a visitor uses it."""

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from pypdf import PdfReader

from mura_hf.demo.examples import load_examples
from mura_hf.demo.templates import probability_text

from .browsing import choose, choose_model, clear, upload
from .running import WAIT

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Two views of an abnormal wrist as a hospital exports them: 16 bits, of which 12 are used."""
    folder, files = tmp_path_factory.mktemp("views"), []
    for number, picture in enumerate(load_examples("worklist")[10].files[:2]):
        with Image.open(picture) as image:
            pixels = np.asarray(image)
        file = folder / f"wrist_{number}.png"
        Image.fromarray(pixels.astype(np.uint16) * 16).save(file)
        files.append(str(file))
    return files


def _probability(page):
    text = page.locator("#answer .answer").inner_text()
    return float(re.search(r"P\(abnormal\) (?:above |below )?([\d.]+)", text)[1])


def test_the_first_page_its_settings_and_reports(page, tmp_path):
    answer, performance = page.locator("#answer .answer"), page.locator("#achieved")
    expect(answer).to_contain_text("bundled: mura-phantom")
    expect(page.locator("#views .film")).to_have_count(3)
    expect(page.locator("#similar li")).to_have_count(5)
    expect(performance).to_contain_text("of the wrist")
    page.mouse.wheel(0, 3000)
    expect(page.locator("#disclaimer")).to_contain_text("Not a medical device")
    expect(page.locator("#disclaimer")).to_be_in_viewport()
    token = page.locator("mura-viewer").get_attribute("data-answer")
    page.get_by_role("button", name="Read the study").click()
    expect(page.locator("mura-viewer")).not_to_have_attribute("data-answer", token, timeout=WAIT)
    expect(answer).to_contain_text("Abnormal: flagged")
    page.locator("#scope").get_by_label("Same body part").check()
    expect(page.locator("#similar li").filter(has_text="wrist, distance")).to_have_count(5, timeout=WAIT)

    with page.expect_download() as download:
        page.get_by_role("button", name="Report as JSON").click()
    download.value.save_as(tmp_path / "report.json")
    study = json.loads((tmp_path / "report.json").read_text())["study"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Report as PDF").click()
    assert download.value.suggested_filename == "study-report.pdf"
    download.value.save_as(tmp_path / "report.pdf")
    pdf = PdfReader(tmp_path / "report.pdf")
    assert len(pdf.pages) == 1
    assert len(pdf.pages[0].images) == 6  # three views, each beside its overlay
    text = re.sub(r"\s+", " ", pdf.pages[0].extract_text())
    value = study["probability"]
    shown = "above 0.999" if value >= 0.9995 else f"{value:.3f}"
    names = [view["name"] for view in study["views"]]
    for words in (
        "Abnormal: flagged",
        "bundled: mura-phantom",
        "Not a medical device",
        f"P(abnormal) {shown}",
        *names,
    ):
        assert words in text
    assert f"P(abnormal) {probability_text(value)}" in page.locator("#answer").inner_text()

    expect(performance).to_contain_text("If 10 of 100 studies are abnormal")
    choose(page, "Operating point", "Few misses")
    expect(answer).to_contain_text("“Few misses”", timeout=WAIT)
    expect(answer).to_contain_text(re.compile(r"flagged strictly above 0\.1782"))
    before = performance.inner_text()
    choose(page, "Operating point", "Few false alarms")
    expect(answer).to_contain_text("“Few false alarms”", timeout=WAIT)
    expect(performance).not_to_have_text(before)
    slider = page.locator("#prevalence input[type=range]")
    slider.focus()
    slider.press("End")
    expect(performance).to_contain_text("If 90 of 100 studies are abnormal", timeout=WAIT)
    choose(page, "Heatmap method", "LayerCAM")
    expect(page.locator("#views")).to_contain_text("The heatmap (layer cam)", timeout=WAIT)
    choose(page, "Body part", "elbow")
    expect(answer).to_contain_text("elbow (given by you)", timeout=WAIT)
    expect(performance).to_contain_text("of the elbow")


def _screenshot(page):
    stack = page.locator("#views .view:visible .stack")
    stack.evaluate("stack => window.scrollBy(0, stack.getBoundingClientRect().top - 100)")  # below the disclaimer
    with Image.open(io.BytesIO(stack.screenshot())) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def test_the_controls_of_the_viewer(page):
    viewer = page.locator("mura-viewer").first
    page.locator("#views .box:visible").first.wait_for()
    before = _screenshot(page)
    assert (np.ptp(before, axis=2) > 40).mean() > 0.001  # colours
    split = viewer.get_by_label("Original against heatmap")
    split.fill("100")
    expect(viewer.locator("output[data-of=split]")).to_have_text("100 %")
    viewer.get_by_label("Box", exact=True).uncheck()
    plain = _screenshot(page)
    assert not (np.ptp(plain, axis=2) > 40).any()  # the radiograph alone is gray
    split.fill("50")
    half = _screenshot(page)
    middle = half.shape[1] // 2
    assert np.abs(half[:, : middle - 4] - plain[:, : middle - 4]).mean() < 0.5
    split.fill("0")
    viewer.get_by_label("Heatmap opacity").fill("0")
    assert np.abs(_screenshot(page) - plain).mean() < 0.5
    viewer.get_by_label("Invert", exact=True).check()
    assert np.abs(_screenshot(page) - (255 - plain)).mean() < 3
    viewer.get_by_label("Invert", exact=True).uncheck()
    viewer.get_by_label("Window width").fill("50")
    assert np.abs(_screenshot(page) - np.clip((plain - 127.5) / 0.5 + 127.5, 0, 255)).mean() < 3
    viewer.get_by_role("button", name="Reset").click()
    assert np.abs(_screenshot(page) - before).mean() < 0.5
    stack = page.locator("#views .view:visible .stack")
    size = stack.bounding_box()["width"]
    viewer.get_by_role("button", name="Zoom in").click()
    assert stack.bounding_box()["width"] == pytest.approx(1.4 * size, rel=0.01)
    viewer.get_by_role("button", name="Fit").click()
    assert stack.bounding_box()["width"] == pytest.approx(size, rel=0.01)
    # Settings hold for the next study, and the controls work there too.
    viewer.get_by_label("Heatmap opacity").fill("20")
    page.locator("#examples button").nth(4).click()
    expect(page.locator("#answer .answer")).to_contain_text("finger", timeout=WAIT)
    expect(page.locator("#views .heat:visible")).to_have_css("opacity", "0.2")
    page.locator("#views .thumb").nth(1).click()
    expect(page.locator("#views .thumb").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#views .view:visible .name")).to_contain_text("finger_2")


def test_an_unusual_study_is_answered_only_on_request(page, views):
    answer, insist = page.locator("#answer .answer"), page.get_by_role("button", name="Show the answer anyway")
    upload(page, *views)
    # The default checkpoint was trained on real films, so a phantom is out of distribution.
    expect(answer).to_contain_text("Not answered", timeout=WAIT)
    expect(answer).to_contain_text("bundled: mura-film")
    expect(page.locator("#views img.film")).to_have_count(2)
    expect(page.locator("#views img.heat")).to_have_count(0)
    assert "P(abnormal)" not in page.locator("#views").inner_text() + answer.inner_text()
    insist.click()
    expect(answer).to_contain_text("Abnormal means fractured", timeout=WAIT)
    expect(page.locator("#answer .notice").first).to_be_visible()
    expect(page.locator("#views img.heat")).to_have_count(2)
    expect(insist).to_have_count(0)
    page.get_by_label("Remove this file").first.click()
    expect(page.locator("#views .view")).to_have_count(1, timeout=WAIT)
    expect(answer).to_contain_text("Not answered")  # it is another study now
    insist.click()
    expect(page.locator("#views .probability")).to_have_count(1, timeout=WAIT)
    # One view is the whole study and has its probability.
    assert page.locator("#views .probability").inner_text() in answer.locator(".chance").inner_text()
    clear(page)
    expect(page.locator("#views .view")).to_have_count(0)
    expect(page.locator("#achieved")).to_have_text("")
    page.locator("#examples button").nth(1).click()
    expect(answer).to_contain_text("bundled: mura-phantom", timeout=WAIT)
    expect(page.locator("#answer .notice")).to_contain_text("synthetic")
    choose_model(page, "mura-film")
    expect(answer).to_contain_text("bundled: mura-film", timeout=WAIT)


def test_uploads_of_all_kinds(page, views, tmp_path):
    answer = page.locator("#answer .answer")
    choose_model(page, "mura-phantom")
    upload(page, *views)
    expect(page.locator("#views .view")).to_have_count(2, timeout=WAIT)
    expect(answer).to_contain_text("wrist")
    expect(page.locator("#views img.heat")).to_have_count(2)
    values = [float(text.split()[-1]) for text in page.locator("#views .probability").all_text_contents()]
    assert min(values) - 0.011 <= _probability(page) <= max(values) + 0.011
    assert page.locator("#views .film").first.evaluate("image => image.complete && image.naturalWidth > 100")
    # The view with the higher probability is shown first; a click shows the other one.
    first = page.locator("#views .view:visible .name").inner_text()
    assert first == f"wrist_{int(np.argmax(values))}.png" or values[0] == values[1]
    page.locator("#views .thumb[aria-pressed=false]").click()
    expect(page.locator("#views .view:visible .name")).not_to_have_text(first)
    expect(page.locator("#views .view:visible")).to_have_count(1)

    copy, bad = tmp_path / "copy.png", tmp_path / "x.png"
    copy.write_bytes(Path(views[0]).read_bytes())
    bad.write_text("Dear doctor, please find enclosed")
    upload(page, str(copy), str(bad))  # added to the open study
    expect(page.locator("#answer .notice").filter(has_text="same")).to_contain_text("copy.png", timeout=WAIT)
    expect(page.locator("#answer .notice.bad")).to_contain_text("x.png is not a PNG, JPEG or DICOM file")
    expect(page.locator("#views .view")).to_have_count(3)
    clear(page)
    upload(page, str(bad))
    expect(page.locator("#answer .notice.bad")).to_contain_text("no view left to read", timeout=WAIT)
    expect(page.locator("#views .view")).to_have_count(0)
    expect(page.locator("#similar")).to_contain_text("after a study was read")
    clear(page)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as packed:
        for file in views:
            packed.write(file, Path(file).name)
    upload(page, str(tmp_path / "study.zip"))
    expect(page.locator("#views .view .name")).to_have_text(["wrist_0.png", "wrist_1.png"], timeout=WAIT)


def test_a_slow_answer_does_not_replace_a_later_choice(page):
    answer = page.locator("#answer .answer")
    choose(page, "Heatmap method", "Smooth Grad-CAM")
    for example in (1, 2):  # while the first study is still read; the last choice counts
        page.locator("#examples button").nth(example).click()
        page.wait_for_timeout(600)
    expect(answer).to_contain_text("forearm", timeout=WAIT)
    choose(page, "Heatmap method", "Grad-CAM, the fastest")
    expect(page.locator("#views")).to_contain_text("head gradient", timeout=WAIT)
    expect(page.locator("#views .name").first).to_contain_text("forearm")
