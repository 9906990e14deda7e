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

from mura_hf.demo.result import chance_text
from mura_hf.phantoms import render_phantom

from .browsing import WAIT, choose, choose_model, clear, upload


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


def _chance(page):
    words = page.locator("#answer .answer").inner_text()
    return float(re.search(r"P\(abnormal\) (?:above |below )?([\d.]+)", words)[1])


def test_the_first_paint_is_an_example_that_is_answered(page):
    expect(page.locator("#answer .answer")).to_contain_text("bundled: mura-phantom")
    expect(page.locator("#views .film")).to_have_count(3)
    expect(page.locator("#similar li")).to_have_count(5)
    expect(page.locator("#achieved")).to_contain_text("of the wrist")
    page.get_by_role("button", name="Read the study").click()
    expect(page.locator("#answer .answer")).to_contain_text("Abnormal: flagged", timeout=WAIT)


def test_films_and_examples_are_read_by_what_was_trained_on_their_like(page, views):
    answer = page.locator("#answer .answer")
    upload(page, *views)
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
    clear(page)
    page.locator("#examples button").nth(1).click()
    expect(answer).to_contain_text("bundled: mura-phantom", timeout=WAIT)
    expect(page.locator("#answer .notice")).to_contain_text("trained on synthetic phantoms")
    choose_model(page, "mura-film")
    expect(answer).to_contain_text("bundled: mura-film", timeout=WAIT)


def test_a_study_gets_one_answer_and_each_view_its_overlay(page, views):
    choose_model(page, "mura-phantom")
    upload(page, *views)
    expect(page.locator("#views .view")).to_have_count(2, timeout=WAIT)
    expect(page.locator("#answer .answer")).to_contain_text("wrist")
    expect(page.locator("#views img.heat")).to_have_count(2)
    chances = [float(text.split()[-1]) for text in page.locator("#views .probability").all_text_contents()]
    assert min(chances) - 0.011 <= _chance(page) <= max(chances) + 0.011
    assert page.locator("#views .film").first.evaluate("image => image.complete && image.naturalWidth > 100")
    # The view with the higher probability is the one shown first, and a click on the other shows that.
    first = page.locator("#views .view:visible .name").inner_text()
    assert first == f"wrist_{int(np.argmax(chances))}.png" or chances[0] == chances[1]
    page.locator("#views .thumb[aria-pressed=false]").click()
    expect(page.locator("#views .view:visible .name")).not_to_have_text(first)
    expect(page.locator("#views .view:visible")).to_have_count(1)


def _shown(page):
    stack = page.locator("#views .view:visible .stack")
    stack.evaluate("stack => window.scrollBy(0, stack.getBoundingClientRect().top - 100)")  # clear of the disclaimer
    with Image.open(io.BytesIO(stack.screenshot())) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def test_the_slider_moves_the_picture_and_opacity_window_invert_box_and_zoom_change_it(page):
    viewer = page.locator("mura-viewer").first
    page.locator("#views .box:visible").first.wait_for()
    before = _shown(page)
    coloured = np.ptp(before, axis=2) > 40
    assert coloured.mean() > 0.001
    split = viewer.get_by_label("Original against heatmap")
    split.fill("100")
    expect(viewer.locator("output[data-of=split]")).to_have_text("100 %")
    viewer.get_by_label("Box", exact=True).uncheck()
    plain = _shown(page)
    assert not (np.ptp(plain, axis=2) > 40).any()  # the film alone is gray
    split.fill("50")
    half = _shown(page)
    middle = half.shape[1] // 2
    assert np.abs(half[:, : middle - 4] - plain[:, : middle - 4]).mean() < 0.5
    split.fill("0")
    viewer.get_by_label("Heatmap opacity").fill("0")
    assert np.abs(_shown(page) - plain).mean() < 0.5
    viewer.get_by_label("Invert", exact=True).check()
    assert np.abs(_shown(page) - (255 - plain)).mean() < 3
    viewer.get_by_label("Invert", exact=True).uncheck()
    viewer.get_by_label("Window width").fill("50")
    wide = np.clip((plain - 127.5) / 0.5 + 127.5, 0, 255)
    assert np.abs(_shown(page) - wide).mean() < 3
    viewer.get_by_role("button", name="Reset").click()
    assert np.abs(_shown(page) - before).mean() < 0.5
    size = page.locator("#views .view:visible .stack").bounding_box()["width"]
    viewer.get_by_role("button", name="Zoom in").click()
    assert page.locator("#views .view:visible .stack").bounding_box()["width"] == pytest.approx(1.4 * size, rel=0.01)
    viewer.get_by_role("button", name="Fit").click()
    assert page.locator("#views .view:visible .stack").bounding_box()["width"] == pytest.approx(size, rel=0.01)


def test_what_a_reader_set_holds_for_the_next_study(page):
    page.locator("mura-viewer").get_by_label("Heatmap opacity").fill("20")
    page.locator("#examples button").nth(4).click()
    expect(page.locator("#answer .answer")).to_contain_text("finger", timeout=WAIT)
    expect(page.locator("#views .heat:visible")).to_have_css("opacity", "0.2")
    page.locator("#views .thumb").nth(1).click()  # the controls of the new study work
    expect(page.locator("#views .thumb").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#views .view:visible .name")).to_contain_text("finger_2")


def test_the_operating_point_changes_the_answer_and_the_prevalence_what_it_means(page):
    answer, achieved = page.locator("#answer .answer"), page.locator("#achieved")
    expect(achieved).to_contain_text("Where 10 of 100 studies are abnormal")
    choose(page, "Operating point", "Few misses")
    expect(answer).to_contain_text("“Few misses”", timeout=WAIT)
    expect(answer).to_contain_text(re.compile(r"flagged strictly above 0\.1782"))
    before = achieved.inner_text()
    choose(page, "Operating point", "Few false alarms")
    expect(answer).to_contain_text("“Few false alarms”", timeout=WAIT)
    expect(achieved).not_to_have_text(before)
    slider = page.locator("#prevalence input[type=range]")
    slider.focus()
    slider.press("End")
    expect(achieved).to_contain_text("Where 90 of 100 studies are abnormal", timeout=WAIT)


def test_the_method_of_the_heatmap_is_picked(page):
    choose(page, "Heatmap method", "LayerCAM")
    expect(page.locator("#views")).to_contain_text("The heatmap (layer cam)", timeout=WAIT)


def test_similar_cases_may_be_of_the_same_part_alone(page):
    expect(page.locator("#similar li")).to_have_count(5)
    page.locator("#scope").get_by_label("Same body part").check()
    expect(page.locator("#similar li").filter(has_text="wrist, distance")).to_have_count(5, timeout=WAIT)


def _three(probability):
    return "above 0.999" if probability >= 0.9995 else f"{probability:.3f}"


def test_the_report_opens_and_holds_the_numbers(page, tmp_path):
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
    text = re.sub(r"\s+", " ", pdf.pages[0].extract_text())
    assert "Abnormal: flagged" in text
    assert "bundled: mura-phantom" in text
    assert "Not a medical device" in text
    for view in study["views"]:
        assert view["name"] in text
    assert f"P(abnormal) {chance_text(study['probability'])}" in page.locator("#answer").inner_text()
    assert f"P(abnormal) {_three(study['probability'])}" in text
    assert len(pdf.pages[0].images) == 6  # three views, each beside its overlay


def test_a_zip_of_a_study_is_taken_apart(page, views, tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as packed:
        for file in views:
            packed.write(file, Path(file).name)
    choose_model(page, "mura-phantom")
    upload(page, str(tmp_path / "study.zip"))
    expect(page.locator("#views .view .name")).to_have_text(["wrist_0.png", "wrist_1.png"], timeout=WAIT)


def test_a_bad_file_is_named_and_the_good_one_answered(page, views, tmp_path):
    bad = tmp_path / "x.png"
    bad.write_text("Dear doctor, please find enclosed")
    upload(page, views[0], str(bad))
    expect(page.locator("#answer .notice.bad")).to_contain_text("x.png is not a PNG, JPEG or DICOM file", timeout=WAIT)
    expect(page.locator("#answer .answer")).to_be_visible()
    expect(page.locator("#views .view")).to_have_count(1)


def test_only_a_bad_file_leaves_no_answer(page, tmp_path):
    bad = tmp_path / "x.png"
    bad.write_text("Dear doctor")
    upload(page, str(bad))
    expect(page.locator("#answer .notice.bad")).to_contain_text("no view left to read", timeout=WAIT)
    expect(page.locator("#views .view")).to_have_count(0)
    expect(page.locator("#similar")).to_contain_text("once a study was read")


def test_the_same_view_twice_is_warned_of(page, views, tmp_path):
    twin = tmp_path / "copy.png"
    twin.write_bytes(Path(views[0]).read_bytes())
    choose_model(page, "mura-phantom")
    upload(page, views[0], str(twin))
    expect(page.locator("#answer .notice").filter(has_text="same")).to_contain_text("copy.png", timeout=WAIT)


def test_clearing_the_box_clears_the_answer(page, views):
    upload(page, *views)
    expect(page.locator("#views .view")).to_have_count(2, timeout=WAIT)
    clear(page)
    expect(page.locator("#views .view")).to_have_count(0)
    expect(page.locator("#achieved")).to_have_text("")


def test_a_slow_answer_does_not_come_back_over_what_was_chosen_since(page):
    page.get_by_role("combobox", name="Heatmap method").click()
    page.get_by_role("option", name="Smooth Grad-CAM").click()
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#answer .answer")).to_contain_text("hand", timeout=WAIT)
    choose(page, "Heatmap method", "Grad-CAM, the cheapest")
    expect(page.locator("#views")).to_contain_text("head gradient", timeout=WAIT)
    expect(page.locator("#views .name").first).to_contain_text("hand")


def test_of_two_quick_choices_the_last_is_read(page):
    choose(page, "Heatmap method", "Smooth Grad-CAM")
    expect(page.locator("#views")).to_contain_text("smooth", timeout=WAIT)
    for example in (1, 2):
        page.locator("#examples button").nth(example).click()
        page.wait_for_timeout(900)
    expect(page.locator("#answer .answer")).to_contain_text("forearm", timeout=WAIT)
    expect(page.locator("#views .name").first).to_contain_text("forearm")


def test_the_body_part_may_be_given(page):
    expect(page.locator("#answer .answer")).to_contain_text("Body part found")
    choose(page, "Body part", "elbow")
    expect(page.locator("#answer .answer")).to_contain_text("elbow (given by you)", timeout=WAIT)
    expect(page.locator("#achieved")).to_contain_text("of the elbow")


def test_the_disclaimer_stays_in_sight(page):
    page.mouse.wheel(0, 3000)
    expect(page.locator("#disclaimer")).to_contain_text("Not a medical device")
    expect(page.locator("#disclaimer")).to_be_in_viewport()
