"""The page as visitors use it. Each test loads it once and walks through one tab."""

import base64
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect
from pypdf import PdfReader

from mura_hf import StudyPredictor
from mura_hf.demo.examples import load_examples
from mura_hf.demo.templates import (
    ADD_VIEWS,
    ALIKE,
    BODY_PART,
    HOW_SURE,
    INCLUDE,
    NEW_STUDY,
    OPTIONS,
    REPORT,
    RETENTION,
    SHOW_ANYWAY,
    probability_text,
)
from mura_hf.inference import find_studies, predict_rows, sort_rows, worklist_csv
from tests.checkpoints import make_checkpoint
from tests.inference.external import save_external

from .running import WAIT

pytestmark = pytest.mark.browser

PHANTOM_WRIST = 6  # number of the first phantom among the examples; it has three views
SHOW = "Show where the model looked"
TABS = ("Read a study", "Worklist", "Models", "About")
MODEL_NAME = "Name, Hub name or local folder"
STUDIES = {  # folder: number of the example, number of views
    "XR_WRIST/patient00001/study1_positive": (10, 2),
    "XR_HAND/patient00002/study1_negative": (7, 2),
    "ward 2/<b>patient 10": (4, 1),
    "ward 2/<b>patient 9": (3, 1),
}


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true", timeout=WAIT)


def choose(page, label, option):
    box = page.get_by_role("combobox", name=label)
    box.evaluate("box => box.scrollIntoView({ block: 'center' })")  # else its options may open beyond the window
    box.click()
    page.get_by_role("option", name=option).first.click()


def choose_model(page, name):
    open_tab(page, "Models")
    choose(page, MODEL_NAME, name)
    page.get_by_role("button", name="Load the model").click()
    expect(page.locator("#model-state")).to_contain_text(name, timeout=WAIT)


def load_model(page, name, label=""):
    page.get_by_role("combobox", name=MODEL_NAME).fill(str(name))
    page.get_by_label("Abnormal label").fill(label)
    page.get_by_role("button", name="Load the model").click()


def unfold(page, *names):
    for name in names:
        button = page.get_by_role("button", name=name)
        if not button.locator("..").get_by_test_id("accordion-content").is_visible():
            button.click()


def clear(page):
    page.locator("#study-files").get_by_label("Clear").first.click()
    expect(page.locator("#answer .empty")).to_be_visible(timeout=WAIT)


def upload(page, *files, button=NEW_STUDY):
    with page.expect_file_chooser() as chooser:  # a click also forgets the files before, which may be the same
        page.get_by_role("button", name=button, exact=True).click()
    chooser.value.set_files(list(files))


def open_example(page, number):
    page.locator(f"[data-example='{number}']").click()


def drop(page, *files, kind="drop"):
    """Drops or pastes files outside any box. Returns whether the old study is hidden at once."""
    given = [(Path(file).name, base64.b64encode(Path(file).read_bytes()).decode()) for file in files]
    return page.evaluate(
        """([files, kind]) => {
            const data = new DataTransfer(), options = { bubbles: true, cancelable: true };
            for (const [name, text] of files) {
                data.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name));
            }
            const event = kind === "drop"
                ? new DragEvent("drop", { ...options, dataTransfer: data })
                : new ClipboardEvent("paste", { ...options, clipboardData: data });
            document.querySelector("#heading").dispatchEvent(event);
            return ["#views", "#answer"].every((id) => document.querySelector(id).offsetHeight === 0);
        }""",
        [given, kind],
    )


def expect_revealed(page):
    """The verdict is in sight and has the focus, and no view says more than the study."""
    answer = page.locator("#answer .answer")
    expect(answer).to_be_visible(timeout=WAIT)
    expect(answer).to_be_focused(timeout=WAIT)
    expect(answer.locator("h2")).to_be_in_viewport(ratio=1)
    order = ["low", "uncertain", "suspected"]
    band = next((one for one in order if one in answer.get_attribute("class").split()), None)
    shown = page.locator("#views .view:visible .state")
    if band is not None:
        expect(shown).to_have_class(f"state {band}")
        for classes in page.locator("#views .thumb .state").evaluate_all("all => all.map(one => one.className)"):
            assert order.index(classes.split()[1]) <= order.index(band)
        colour = "one => getComputedStyle(one).color"
        assert answer.locator("h2").evaluate(colour) == shown.evaluate(colour)


CONTRAST = """() => {
    const rgba = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
    const over = (top, under) => [0, 1, 2].map((c) => top[c] * top[3] + under[c] * (1 - top[3]));
    const light = (colour) => colour.slice(0, 3).map((value) => value / 255)
        .map((value) => (value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4))
        .reduce((sum, value, c) => sum + value * [.2126, .7152, .0722][c], 0);
    const back = (node) => {
        if (!node) return [255, 255, 255];
        const own = rgba(getComputedStyle(node).backgroundColor);
        return own[3] === 1 ? own.slice(0, 3) : over(own, back(node.parentElement));
    };
    const weak = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let count = 0;
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement;
        const isShown = node.checkVisibility({ opacityProperty: true, visibilityProperty: true });
        if (!text || !isShown || node.closest(":disabled, script, style, [aria-hidden=true]")) continue;
        const under = back(node), [a, b] = [light(over(rgba(getComputedStyle(node).color), under)), light(under)];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        count += 1;
        if (ratio < 4.5) weak.set(`${text.slice(0, 40)} (${node.className})`, ratio.toFixed(2));
    }
    return [count, [...weak]];
}"""
"""The number of visible texts, and those whose contrast to their background is below 4.5 (WCAG 2.2, 1.4.3)."""


def download(page, label):
    with page.expect_download() as given:
        page.get_by_role("button", name=label).click()
    return given.value.suggested_filename, Path(given.value.path()).read_bytes()


def test_every_tab_is_accessible_fits_the_window_and_works_by_keyboard(page):
    page.add_style_tag(content="* { transition: none !important }")  # colours change at once
    found = []
    open_example(page, PHANTOM_WRIST)
    expect(page.locator("#views .thumb")).to_have_count(3, timeout=WAIT)
    unfold(page, HOW_SURE, ALIKE, REPORT, OPTIONS)
    page.locator("#views summary").click()
    for tab in TABS:
        open_tab(page, tab)
        for dark in (False, True):
            page.evaluate(f"document.body.classList.toggle('dark', {json.dumps(dark)})")
            for violation in Axe().run(page).response["violations"]:
                if violation["impact"] in ("serious", "critical"):
                    nodes = [(node["html"][:200], node["failureSummary"][:300]) for node in violation["nodes"][:3]]
                    found.append((tab, dark, violation["id"], nodes))
            count, weak = page.evaluate(CONTRAST)
            assert count > 15
            found += [(tab, dark, "contrast", weak)] if weak else []
        for width in (360, 768, 1920, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
    assert found == [], json.dumps(found, indent=1)
    corners = []
    for dark in ("true", "false"):
        page.evaluate(f"document.body.classList.toggle('dark', {dark})")
        with Image.open(io.BytesIO(page.screenshot())) as image:
            corners.append(np.asarray(image.convert("L"))[-40:, :4].mean())
    assert corners[0] < 90 < corners[1]
    open_tab(page, TABS[0])

    def tab_to(selector):
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement !== null && document.activeElement.matches({selector!r})"):
                return
        pytest.fail(f"{selector} is not reached by the keyboard")

    tab_to("#examples button")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#views .name").first).to_have_text(Path(load_examples("film")[1].files[0]).name, timeout=WAIT)
    expect_revealed(page)
    open_example(page, PHANTOM_WRIST)
    expect(page.locator("#views .thumb")).to_have_count(3, timeout=WAIT)
    expect_revealed(page)
    tab_to("#views .thumb")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#views .thumb").nth(1)).to_have_attribute("aria-pressed", "true")
    tab_to("#views .stage")
    marked = page.locator("mura-viewer input[data-set=marked]")
    shown = marked.is_checked()
    page.keyboard.press("h")
    expect(marked).to_be_checked(checked=not shown)
    page.keyboard.press("+")
    expect(page.locator("mura-viewer output[data-of=zoom]")).to_have_text("140 %")
    before = page.locator("#views .stack:visible").get_attribute("style")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#views .stack:visible")).not_to_have_attribute("style", before)
    page.keyboard.press("n")
    expect(page.locator("#views .thumb").nth(2)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("combobox", name="Operating point").focus()
    for key in ("ArrowDown", "ArrowUp", "Home", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#answer .answer")).to_be_visible()
    page.get_by_role("tab", name="Read a study").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Worklist")).to_have_attribute("aria-selected", "true")


def screenshot(page):
    stack = page.locator("#views .view:visible .stack")
    stack.evaluate("stack => window.scrollBy(0, stack.getBoundingClientRect().top - 100)")  # below the disclaimer
    with Image.open(io.BytesIO(stack.screenshot())) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def test_the_first_page_its_viewer_settings_and_reports(page):
    answer, performance = page.locator("#answer .answer"), page.locator("#achieved")
    # A real film is answered, with verdict, picture and box above the fold on a small desktop and on a phone.
    film = load_examples("film")[0]
    expect(answer).to_contain_text("Two radiologists saw a fracture")
    expect(page.locator("#views img.film")).to_have_count(1)
    expect(page.locator("#views .name")).to_have_text(Path(film.files[0]).name)
    expect(page.locator("#views")).to_contain_text(film.credit)
    expect(page.get_by_role("combobox", name=BODY_PART)).to_have_count(0)  # the checkpoint does not know parts
    for width, height in ((390, 844), (1280, 800)):
        page.set_viewport_size({"width": width, "height": height})
        for part in ("#answer .answer", "#views .frame"):
            box = page.locator(part).bounding_box()
            assert box["y"] + box["height"] <= height, (width, part)
        box = page.locator("#heading h1").bounding_box()
        assert box["y"] >= page.locator("#disclaimer").bounding_box()["height"] - 1
    page.set_viewport_size({"width": 1280, "height": 900})
    unfold(page, HOW_SURE, ALIKE, REPORT, OPTIONS)
    expect(page.locator("#details")).to_contain_text("bundled: mura-film")
    open_example(page, PHANTOM_WRIST)
    expect(page.locator("#views .film")).to_have_count(3, timeout=WAIT)
    expect(page.locator("#details")).to_contain_text("bundled: mura-phantom")
    expect(answer).to_contain_text("Abnormality suspected")
    expect(page.locator("#similar li")).to_have_count(6, timeout=WAIT)
    expect(performance).to_contain_text("of the wrist", timeout=WAIT)
    page.mouse.wheel(0, 3000)
    expect(page.locator("#disclaimer")).to_contain_text("Not a medical device")
    expect(page.locator("#disclaimer")).to_be_in_viewport()
    page.locator("#views summary").click()

    viewer = page.locator("mura-viewer").first
    page.locator("#views .box:visible").first.wait_for()
    before = screenshot(page)
    assert (np.ptp(before, axis=2) > 40).mean() > 0.001  # colours
    split = viewer.get_by_label("Uncover the original from the left")
    split.fill("100")
    expect(viewer.locator("output[data-of=split]")).to_have_text("100 %")
    viewer.get_by_label("Box", exact=True).uncheck()
    plain = screenshot(page)
    assert not (np.ptp(plain, axis=2) > 40).any()  # the radiograph alone is gray
    split.fill("50")
    half, middle = screenshot(page), plain.shape[1] // 2
    assert np.abs(half[:, : middle - 4] - plain[:, : middle - 4]).mean() < 0.5
    split.fill("0")
    viewer.get_by_label("Heatmap opacity").fill("0")
    assert np.abs(screenshot(page) - plain).mean() < 0.5
    viewer.get_by_label("Invert", exact=True).check()
    assert np.abs(screenshot(page) - (255 - plain)).mean() < 3
    viewer.get_by_label("Invert", exact=True).uncheck()
    viewer.get_by_label("Window width").fill("50")
    assert np.abs(screenshot(page) - np.clip((plain - 127.5) / 0.5 + 127.5, 0, 255)).mean() < 3
    viewer.get_by_role("button", name="Reset").click()  # the brightness only
    assert np.abs(screenshot(page) - plain).mean() < 0.5
    viewer.get_by_label("Heatmap opacity").fill("50")
    viewer.get_by_label("Box", exact=True).check()
    assert np.abs(screenshot(page) - before).mean() < 0.5
    stack = page.locator("#views .view:visible .stack")
    window = [viewer.locator(f"output[data-of={name}]") for name in ("width", "level")]
    menu = "stage => stage.dispatchEvent(new MouseEvent('contextmenu', { bubbles: true, cancelable: true }))"
    for button, key, x, y in (("right", "Shift", 40, 20), ("left", "Alt", -40, -20)):
        stack.hover()
        page.keyboard.down(key)
        page.mouse.down(button=button)
        box = stack.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 + y)
        page.mouse.up(button=button)
        page.keyboard.up(key)
        for output, value in zip(window, (120, 60) if button == "right" else (100, 50), strict=True):
            expect(output).to_have_text(f"{value} %")
        allowed = [page.locator("#views .stage").evaluate(menu) for _ in range(2)]
        assert allowed == [button != "right", True]
    size = stack.bounding_box()["width"]
    for button, times in (("Zoom in", 1.4), ("Fit", 1)):
        viewer.get_by_role("button", name=button).click()
        assert stack.bounding_box()["width"] == pytest.approx(times * size, rel=0.01)
    viewer.get_by_role("button", name="Zoom in").click()
    stack.dblclick()
    assert stack.bounding_box()["width"] == pytest.approx(size, rel=0.01)
    viewer.get_by_role("button", name="Full screen").click()
    page.wait_for_function("document.fullscreenElement?.matches('mura-viewer')")
    expect(viewer).to_contain_text("Adjust the picture")
    viewer.get_by_role("button", name="Leave full screen").click()
    page.wait_for_function("!document.fullscreenElement")
    for elements in ("mura-viewer .zoom button", "mura-viewer .thumb .state"):
        tops = page.locator(elements).evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
        assert len(tops) > 2
        assert np.ptp(tops) < 0.5, elements
    for key in ("low", "suspected"):  # heatmap and box are hidden where nothing is flagged
        page.locator("#views .view:visible").evaluate(f"view => {{ view.className = 'view {key}'; }}")
        expect(viewer.get_by_label(SHOW)).to_be_checked(checked=key != "low")
        assert (np.ptp(screenshot(page), axis=2) > 40).any() == (key != "low")
    viewer.get_by_label(SHOW).uncheck()
    assert not (np.ptp(screenshot(page), axis=2) > 40).any()
    viewer.get_by_label(SHOW).check()
    viewer.get_by_label("Heatmap opacity").fill("20")
    token = viewer.get_attribute("data-answer")
    choose(page, "Heatmap method", "LayerCAM")
    expect(viewer).not_to_have_attribute("data-answer", token, timeout=WAIT)
    expect(page.locator("#views .heat:visible")).to_have_css("opacity", "0.2")  # settings stay
    choose(page, "Heatmap method", "Grad-CAM (default")
    expect(page.locator("#views")).not_to_contain_text("The heatmap (layer cam)", timeout=WAIT)
    page.locator("#scope").get_by_label("Same body part").check()
    expect(page.locator("#similar li").filter(has_text="wrist, distance")).to_have_count(6, timeout=WAIT)

    study = json.loads(download(page, "Report as JSON")[1])["study"]
    name, content = download(page, "Report as PDF")
    pdf = PdfReader(io.BytesIO(content))
    assert (name, len(pdf.pages)) == ("study-report.pdf", 1)
    assert len(pdf.pages[0].images) == 6  # three views, each beside its overlay
    text = re.sub(r"\s+", " ", pdf.pages[0].extract_text())
    names_of_views = [view["name"] for view in study["views"]]
    for words in ("Abnormality suspected", "bundled: mura-phantom", "Not a medical device", *names_of_views):
        assert words in text
    assert f"Probability of an abnormality {probability_text(study['probability'])}" in answer.inner_text()

    expect(performance).to_contain_text("If 10 of 100 studies are abnormal")
    details = page.locator("#details")
    for point, words, found in (
        ("Few misses", r"“Few misses” flags a study above 0\.0551", "66 of 70"),
        ("Few false alarms", "“Few false alarms”", "56 of 70"),
    ):
        choose(page, "Operating point", point)
        expect(details).to_contain_text(re.compile(words), timeout=WAIT)
        expect(performance).to_contain_text(found, timeout=WAIT)
    page.locator("#prevalence input[type=range]").press("End")
    expect(performance).to_contain_text("If 90 of 100 studies are abnormal", timeout=WAIT)
    choose(page, "Body part", "elbow")
    expect(details).to_contain_text("elbow (given by you)", timeout=WAIT)
    expect(page.locator("#answer .notice")).to_contain_text(["You chose elbow, but the picture looks like a wrist"])
    expect(performance).to_contain_text("of the elbow", timeout=WAIT)

    choose(page, "Heatmap method", "Smooth Grad-CAM")
    for example in (PHANTOM_WRIST, PHANTOM_WRIST + 1):  # while another study is read; the last choice counts
        open_example(page, example)
        page.wait_for_timeout(600)
    expect(details).to_contain_text("forearm", timeout=3 * WAIT)
    choose(page, "Heatmap method", "LayerCAM")
    expect(page.locator("#views")).to_contain_text("The heatmap (layer cam)", timeout=WAIT)
    expect(page.locator("#views .name").first).to_contain_text("forearm")
    expect(page.locator("#views [data-empty]")).to_be_hidden()
    choose(page, "Heatmap method", "Grad-CAM (default")
    open_example(page, PHANTOM_WRIST + 5)
    expect(page.locator("#views .name").first).to_contain_text("example8_wrist", timeout=WAIT)
    page.locator("#views .thumb").first.click()
    expect(page.locator("#views [data-empty]")).to_have_text("Nothing in this view raised the probability.")
    expect(viewer.get_by_label(SHOW)).to_be_disabled()


def test_uploads_and_an_unusual_study(page, tmp_path):
    views = []
    for number, picture in enumerate(load_examples("worklist")[6].files[:2]):
        with Image.open(picture) as image:  # as hospitals export them: 16 bits, of which 12 are used
            Image.fromarray(np.asarray(image).astype(np.uint16) * 16).save(tmp_path / f"hand_{number}.png")
        views.append(str(tmp_path / f"hand_{number}.png"))
    answer, insist = page.locator("#answer .answer"), page.locator("#anyway")
    details, bad_notice = page.locator("#details"), page.locator("#answer .notice.bad")
    unfold(page, HOW_SURE)
    films = [film.files[0] for film in load_examples("film")]

    open_example(page, PHANTOM_WRIST)  # read by another checkpoint, whose operating point is not kept
    expect(details).to_contain_text("“Rule of the MURA paper”", timeout=WAIT)

    # Files that are dropped or pasted anywhere replace the study, which is gone while they are read.
    page.set_viewport_size({"width": 390, "height": 844})
    for kind, film in (("drop", films[2]), ("paste", films[3])):
        open_tab(page, "About")
        assert drop(page, film, kind=kind)
        expect(page.get_by_role("tab", name=TABS[0])).to_have_attribute("aria-selected", "true")
        expect(page.locator("#views .name").first).to_have_text(Path(film).name, timeout=WAIT)
        expect(page.locator("#views .view")).to_have_count(1)
        expect_revealed(page)
        expect(page.locator("#study-files")).to_contain_text(Path(film).stem)
        expect(details).to_contain_text("“Screening”")
    page.set_viewport_size({"width": 1280, "height": 900})

    # One foreign file, here a phantom, does not stop the study, and one click includes it.
    predictor = StudyPredictor.from_pretrained("mura-film")
    known = next(film for film in films if predictor(film, heatmaps=False).in_distribution)
    upload(page, known, views[0])
    expect(bad_notice).to_contain_text("hand_0.png does not look like an upper-limb X-ray", timeout=WAIT)
    expect(page.locator("#views .view")).to_have_count(1)
    expect_revealed(page)
    expect(insist).to_have_text(INCLUDE)
    insist.click()
    expect(page.locator("#views .view")).to_have_count(2, timeout=WAIT)
    expect(insist).to_have_count(0)

    upload(page, *views)
    expect(answer).to_contain_text("Not answered", timeout=WAIT)
    expect_revealed(page)
    expect(insist).to_have_text(SHOW_ANYWAY)
    expect(page.locator("#views img.film")).to_have_count(2)
    expect(page.locator("#views img.heat")).to_have_count(0)
    assert "Probability" not in page.locator("#right").inner_text()
    insist.click()
    expect(details).to_contain_text("Abnormal means fractured", timeout=WAIT)
    expect(details).to_contain_text("bundled: mura-film")
    expect(answer).to_contain_text("Perhaps meaningless")
    expect(page.locator("#views img.heat")).to_have_count(2)
    expect(insist).to_have_count(0)
    page.get_by_label("Remove this file").first.click()
    expect(page.locator("#views .view")).to_have_count(1, timeout=WAIT)
    expect(answer).to_contain_text("Not answered")  # it is another study now
    insist.click()
    expect(answer.locator(".probability")).to_be_visible(timeout=WAIT)
    expect(details.locator("dd b").first).to_have_text(answer.locator(".probability").inner_text(), timeout=WAIT)
    expect(details.locator("table")).to_have_count(0)  # one view is the whole study
    clear(page)
    expect(page.locator("#views .view")).to_have_count(0)
    expect(page.locator("#achieved")).to_have_text("")
    open_example(page, PHANTOM_WRIST + 1)
    expect(details).to_contain_text("bundled: mura-phantom", timeout=WAIT)
    expect(page.locator("#answer .notice")).to_contain_text("synthetic")
    choose_model(page, "mura-film")
    open_tab(page, TABS[0])
    expect(answer).to_contain_text("Not answered", timeout=WAIT)

    choose_model(page, "mura-phantom")
    open_tab(page, TABS[0])
    expect(answer).to_contain_text("Example", timeout=WAIT)
    upload(page, *views)
    expect(page.locator("#views .name").first).to_contain_text("hand_", timeout=WAIT)
    expect_revealed(page)
    expect(details).to_contain_text("hand")
    expect(page.locator("#views img.heat")).to_have_count(2)
    values = [float(text.split()[-1]) for text in details.locator("td.probability").all_text_contents()]
    assert page.locator("#views .film").first.evaluate("image => image.complete && image.naturalWidth > 100")
    # The view with the higher probability is shown first; a click shows the other one.
    first = page.locator("#views .view:visible .name").inner_text()
    assert first == f"hand_{int(np.argmax(values))}.png" or values[0] == values[1]
    page.locator("#views .thumb[aria-pressed=false]").click()
    expect(page.locator("#views .view:visible .name")).not_to_have_text(first)
    expect(page.locator("#views .view:visible")).to_have_count(1)
    copy, bad, packed = tmp_path / "copy.png", tmp_path / "x.png", tmp_path / "study.zip"
    copy.write_bytes(Path(views[0]).read_bytes())
    bad.write_text("Dear doctor, please find enclosed")
    for name, head in (("photo.heic", b"\0\0\0\x18ftypheic"), ("letter.pdf", b"%PDF-1.7")):
        (tmp_path / name).write_bytes(head)
    upload(
        page, *(str(tmp_path / name) for name in ("copy.png", "x.png", "photo.heic", "letter.pdf")), button=ADD_VIEWS
    )
    expect(page.locator("#answer .notice").filter(has_text="same")).to_contain_text("copy.png", timeout=WAIT)
    for words in ("x.png is not a PNG, JPEG, TIFF,", "photo.heic is HEIC, which is not supported; save it as JPEG"):
        expect(bad_notice).to_contain_text(words)
    expect(bad_notice).to_contain_text(re.compile("letter.pdf is (a )?PDF.*, which is not supported; "))
    expect(page.locator("#views .view")).to_have_count(3)
    upload(page, str(bad))
    expect(bad_notice).to_contain_text("no view left to read", timeout=WAIT)
    expect(bad_notice).to_be_focused()
    expect(page.locator("#views .view")).to_have_count(0)
    expect(page.locator("#more")).to_be_hidden()
    with zipfile.ZipFile(packed, "w") as opened:
        for file in views:
            opened.write(file, Path(file).name)
    upload(page, str(packed))
    expect(page.locator("#views .view .name")).to_have_text(["hand_0.png", "hand_1.png"], timeout=WAIT)


def test_models_their_cards_errors_and_the_comparison_of_two(page, checkpoint):
    unfold(page, HOW_SURE)
    open_tab(page, "Models")
    page.get_by_role("button", name="Card of the model in use").click()
    card, text, facts, state = (page.locator(f"#model-{name}") for name in ("card", "card-text", "facts", "state"))
    expect(card.locator("h1")).to_have_text("mura-film")
    expect(card.locator("img")).to_have_count(5)  # four plots and some mistakes
    assert card.locator("img").evaluate_all("images => images.every(image => image.naturalWidth > 100)")
    page.get_by_role("combobox", name=MODEL_NAME).fill("mura-phantom")
    page.get_by_role("combobox", name=MODEL_NAME).press("Enter")  # like the button
    expect(state).to_contain_text("mura-phantom", timeout=WAIT)
    expect(card.locator("h1")).to_have_text("mura-phantom", timeout=WAIT)
    expect(facts).to_contain_text(StudyPredictor.from_pretrained("mura-phantom").weights_sha256[:12])
    load_model(page, "nobody/nothing")
    expect(state).to_contain_text("Not loaded.", timeout=WAIT)
    expect(state).to_contain_text("The previous model stays in use.")
    expect(card.locator("h1")).to_have_text("mura-phantom")
    load_model(page, checkpoint)
    expect(state).to_contain_text("resnet10t", timeout=WAIT)
    expect(text).to_contain_text("has no model card")
    expect(facts).to_contain_text("Not measured for these weights.")
    open_tab(page, TABS[0])
    expect(page.locator("#details")).to_contain_text(f"folder: {checkpoint.name}", timeout=WAIT)

    upload(page, load_examples("worklist")[10].files[0])
    expect(page.locator("#views .name").first).to_contain_text("phantom11_wrist_1.png", timeout=WAIT)
    open_tab(page, "Models")
    compared, sides = page.locator("#compared .compared"), page.locator("#compared .side")

    def compare(**names):
        for side, name in names.items():
            page.get_by_role("combobox", name=f"Checkpoint {side}").fill(name)
            page.get_by_role("combobox", name=f"Checkpoint {side}").press("Enter")
        page.get_by_role("button", name="Compare").click()

    compare(A="mura-phantom", B="mura-film")
    expect(sides).to_have_count(2, timeout=WAIT)
    expect(sides.first).to_contain_text(re.compile(r"Probability of an abnormality (above |below )?0\.\d\d"))
    expect(sides.first).to_contain_text("bundled: mura-phantom")
    expect(sides.last).to_contain_text("Not answered")  # a phantom is not a film
    expect(compared.locator("tbody tr")).to_have_count(2)
    expect(compared.locator("tbody tr").last).to_contain_text("phantom11_wrist_1.png")
    expect(compared.locator("img.heat")).to_have_count(1)
    page.set_viewport_size({"width": 700, "height": 900})
    boxes = [sides.nth(place).bounding_box() for place in range(2)]
    assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"]
    compare(B="nobody/nothing")
    expect(sides.last.locator(".notice")).to_contain_text("nobody/nothing", timeout=WAIT)
    expect(sides.first).to_contain_text("Probability")
    open_tab(page, TABS[0])
    clear(page)
    open_tab(page, "Models")
    expect(compared).to_have_count(0)  # it was about the closed study
    compare()
    expect(page.locator("#compared")).to_contain_text("Open a study first", timeout=WAIT)


HOSTILE = (
    "<img src=hostile.png onerror=hostile()>", "<b onmouseover=hostile()>bold", "[link](https://hostile.example)",
    "www.hostile.example", "![x](https://hostile.example/x.png)", "${hostile()} {{hostile()}}",
    "<svg onload=hostile()>",
)  # fmt: skip
"""Texts that would run a script, contact a server or become a link if the page did not show them as they are."""


def test_hostile_text_is_shown_as_it_is(page, tmp_path):
    plain = [text.replace("/", "") for text in HOSTILE]  # as names of files
    urls, errors = [], []

    def check_shown(where, *texts):
        for text in texts:
            expect(page.locator(where)).to_contain_text(text, timeout=WAIT)
        made = page.locator("[src*=hostile], [href*=hostile]:not(.download-link), [onmouseover], [onload], [onerror]")
        assert made.evaluate_all("found => found.map(element => element.outerHTML)") == []
        assert errors == []  # no script was run: there is no function `hostile`
        assert [url for url in urls if "hostile" in url and "/gradio_api/" not in url and "?" not in url] == []

    page.on("request", lambda request: urls.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(
        f"{page.url}?__theme={HOSTILE[0]}&view={HOSTILE[0]}&x={HOSTILE[6]}&session_hash={HOSTILE[1]}#{HOSTILE[0]}"
    )
    expect(page.locator("#answer .answer")).to_be_visible(timeout=WAIT)

    unfold(page, HOW_SURE)
    picture = Path(load_examples("worklist")[10].files[0]).read_bytes()
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as packed:
        for name in plain:
            packed.writestr(f"{name}.png", picture)
        packed.writestr(f"bad {plain[0]}.png", b"no picture")
    upload(page, str(tmp_path / "study.zip"))
    check_shown("#views .thumbs", *plain)
    check_shown("#answer", f"bad {plain[0]}.png is", "show the same picture")

    # A view cannot be extracted if its checksum is wrong: a toast names it when the study is opened.
    archive = tmp_path / "studies.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in plain:
            packed.writestr(f"{name}/{name}.png", picture)
            packed.writestr(f"{name}/bad {name}.png", b"no picture")
        packed.writestr(f"none {plain[0]}/{plain[0]}.png", b"no picture")
    archive.write_bytes(archive.read_bytes().replace(b"no picture", b"no Picture"))
    open_tab(page, "Worklist")
    progress, box = page.locator("#worklist-progress"), page.locator("#worklist-upload input[type=file]")
    (tmp_path / plain[0]).write_text("no ZIP file")  # Gradio removes signs from the names of uploads
    box.set_input_files(str(tmp_path / plain[0]))
    expect(page.locator("#worklist-upload")).to_contain_text("hostile", timeout=WAIT)
    page.get_by_role("button", name="Read the studies").click()
    check_shown("#worklist-progress", "is not a ZIP file")
    page.locator("#worklist-upload").get_by_label("Clear").click()
    box.set_input_files(str(archive))
    expect(page.locator("#worklist-upload")).to_contain_text("studies", timeout=WAIT)
    page.get_by_role("button", name="Read the studies").click()
    expect(progress).to_contain_text(f"Read {len(plain) + 1} of {len(plain) + 1} studies", timeout=WAIT)
    check_shown("mura-worklist tbody", *plain, *(f"bad {name}.png cannot be" for name in plain))
    page.locator("mura-worklist tr", has_text=f"none {plain[0]}").locator(".open").click()
    toasts = page.get_by_test_id("toast-body")
    expect(toasts.filter(has_text="Error")).to_contain_text(f"{plain[0]}.png cannot be extracted", timeout=WAIT)
    for name in plain[:4]:
        page.get_by_role("button", name=f"Open {name}", exact=True).click()
        expect(toasts.filter(has_text="Warning")).to_contain_text(f"bad {name}.png cannot be", timeout=WAIT)
        expect(page.get_by_role("tab", name=TABS[0])).to_have_attribute("aria-selected", "true", timeout=WAIT)
        check_shown("mura-walk", name)
        open_tab(page, "Worklist")

    # Checkpoints: names, labels, cards, operating points and what "abnormal" means.
    open_tab(page, "Models")
    page.get_by_role("button", name="Card of the model in use").click()
    for name in HOSTILE:
        load_model(page, name)
        check_shown("#model-state", f"Not loaded. “{name}” is not a Hub name")
    foreign = save_external(tmp_path / f"{plain[0]} 1", "vit", labels=(HOSTILE[2], f"{HOSTILE[0]} {HOSTILE[3]}"))
    own = make_checkpoint(
        tmp_path / plain[1], operating_points={HOSTILE[3]: 0.5, HOSTILE[0]: 0.3},
        positive_class_description=f"{HOSTILE[0]} {HOSTILE[2]} {HOSTILE[3]}",
    )  # fmt: skip
    for folder in (foreign, own):
        (folder / "README.md").write_text(f"---\ntitle: '{HOSTILE[0]}'\n---\n" + "\n\n".join(HOSTILE))
    load_model(page, foreign)
    check_shown("#model-state", HOSTILE[0], HOSTILE[2])
    load_model(page, foreign, f"{HOSTILE[0]} {HOSTILE[3]}")
    check_shown("#model-state", f"folder: {plain[0]} 1", f"“{HOSTILE[0]} {HOSTILE[3]}”")
    check_shown("#model-card-text", *HOSTILE)
    assert page.locator("#model-card-text").locator("img, a, b, svg").count() == 0
    load_model(page, own)
    check_shown("#model-facts", f"folder: {plain[1]}", HOSTILE[0], HOSTILE[3])
    for side, name in (("A", str(foreign)), ("B", str(own))):
        page.get_by_role("combobox", name=f"Checkpoint {side}").fill(name)
        page.get_by_role("combobox", name=f"Checkpoint {side}").press("Enter")
    page.get_by_role("button", name="Compare").click()
    check_shown("#compared", HOSTILE[2], f"Abnormal means {HOSTILE[0]} {HOSTILE[2]}", plain[3])
    open_tab(page, TABS[0])
    check_shown("#details", f"Abnormal means {HOSTILE[0]} {HOSTILE[2]}", f"“{HOSTILE[0]}”")
    unfold(page, REPORT)
    choose(page, "Operating point", HOSTILE[3])
    check_shown("#details", f"“{HOSTILE[3]}”")
    names = [name for name, _ in (download(page, f"Report as {kind}") for kind in ("PDF", "JSON"))]
    assert names == ["study-report.pdf", "study-report.json"]
    policy = page.locator("meta[http-equiv=Content-Security-Policy]")  # what was overlooked would contact nobody
    expect(policy).to_have_attribute("content", re.compile("default-src 'self' "))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A few studies, one with a broken view, and one without a good view."""
    file, examples = tmp_path_factory.mktemp("archive") / "monday.zip", load_examples("worklist")
    with zipfile.ZipFile(file, "w") as opened:
        for folder, (number, n_views) in STUDIES.items():
            for view, picture in enumerate(examples[number].files[:n_views], 1):
                opened.write(picture, f"{folder}/image{view}.png")
        opened.writestr("ward 2/<b>patient 9/image2.png", b"no picture")
        opened.writestr("ward 3/image1.png", b"no picture")
    return file


@pytest.fixture(scope="module")
def long_archive(tmp_path_factory):
    """Six hundred small studies."""
    file, buffer = tmp_path_factory.mktemp("archive") / "long.zip", io.BytesIO()
    with Image.open(load_examples("worklist")[10].files[0]) as image:
        image.resize((96, 128)).save(buffer, "PNG")
    with zipfile.ZipFile(file, "w") as opened:
        for number in range(1200):
            opened.writestr(f"patient {number // 2}/image{number % 2}.png", buffer.getvalue())
    return file


def start(page, file):
    page.set_input_files("#worklist-upload input[type=file]", str(file))
    shown = re.compile(rf"{file.stem}\s*{file.suffix}")  # the name may be broken where the box is narrow
    expect(page.locator("#worklist-upload")).to_contain_text(shown, timeout=WAIT)
    page.get_by_role("button", name="Read the studies").click()


def names(page):
    return page.locator("mura-worklist tbody tr:not([hidden]) th").all_text_contents()


def test_a_worklist_its_errors_rows_files_and_opened_studies(page, archive, tmp_path):
    unfold(page, HOW_SURE)
    choose_model(page, "mura-phantom")
    open_tab(page, "Worklist")
    progress, read = page.locator("#worklist-progress"), page.get_by_role("button", name="Read the studies")
    path, remove = (
        page.get_by_label("Or a folder, ZIP or CSV file"),
        page.locator("#worklist-upload").get_by_label("Clear"),
    )
    expect(page.locator("#worklist-help")).to_contain_text("each folder that contains pictures is one study")
    read.click()
    expect(progress.locator(".notice")).to_contain_text("There is nothing to read yet", timeout=WAIT)
    wrong = tmp_path / "wrong.zip"
    wrong.write_text("This is a letter.")
    start(page, wrong)
    expect(progress.locator(".notice")).to_contain_text("wrong.zip is not a ZIP file, or it is damaged", timeout=WAIT)
    expect(read).to_be_enabled()
    remove.click()
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "films")
    path.fill(str(tmp_path / "films"))
    choose(page, "Operating point", "Few misses")
    read.click()
    expect(progress).to_contain_text("Read 5 of 5 studies", timeout=WAIT)
    expect(progress).to_contain_text("“Few misses”")
    choose(page, "Operating point", "Rule of the MURA paper")
    path.fill("")
    start(page, archive)
    expect(progress).to_contain_text("“Rule of the MURA paper”", timeout=WAIT)

    rows = sort_rows(predict_rows(StudyPredictor.from_pretrained("mura-phantom"), find_studies(archive)))
    first = names(page)
    assert first == [row.study for row in rows]
    assert download(page, "Download CSV") == ("worklist.csv", worklist_csv(rows).encode())
    name, content = download(page, "Download JSON")
    assert (name, [row["study"] for row in json.loads(content)]) == ("worklist.json", first)
    expect(progress).to_contain_text("1 not read")
    table = page.locator("mura-worklist")
    expect(table.locator("tr", has_text="patient 9").locator(".notes")).to_contain_text("Left out: image2.png is not")
    expect(table.locator("tr", has_text="ward 3").locator(".band")).to_contain_text("Not read")
    expect(table.locator("tbody th img")).to_have_count(4)  # of each study with a picture
    expect(table.locator(".notice")).to_have_count(1)  # of the checkpoint, for all studies
    assert table.locator("tbody b").count() == 0

    header = table.locator("thead th")
    expect(header.nth(2)).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="Study", exact=True).click()
    expect(header.nth(0)).to_have_attribute("aria-sort", "ascending")
    expect(header.nth(2)).to_have_attribute("aria-sort", "none")
    assert names(page) == [
        "ward 2/<b>patient 9", "ward 2/<b>patient 10", "ward 3", "XR_HAND/patient00002/study1",
        "XR_WRIST/patient00001/study1",
    ]  # fmt: skip
    page.get_by_role("button", name="Probability").press("Enter")
    assert names(page) == first
    page.get_by_role("button", name="Probability").press("Enter")
    expect(header.nth(2)).to_have_attribute("aria-sort", "ascending")
    assert names(page) == [*first[:4][::-1], first[4]]  # studies without an answer stay last
    table.get_by_label("Body part").select_option("hand")
    assert names(page) == ["XR_HAND/patient00002/study1"]
    expect(table.locator(".shown")).to_have_text("1 of 5 studies")
    table.get_by_label("Body part").select_option("")
    table.get_by_label("Answer").select_option("failed")
    assert names(page) == ["ward 3"]
    table.get_by_label("Answer").select_option("")

    order = names(page)
    table.locator("tr", has_text="XR_WRIST").locator(".band").click()
    study, details = page.get_by_role("tab", name="Read a study"), page.locator("#details")
    expect(study).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(details).to_contain_text("wrist (given by you)", timeout=WAIT)
    expect(page.locator("#views img.film")).to_have_count(2)
    expect_revealed(page)
    # The buttons above it follow the order of the table, and lead back to the place in it.
    walk, place = page.locator("mura-walk"), order.index("XR_WRIST/patient00001/study1")
    expect(walk).to_contain_text(f"{order[place]} ({place + 1} of 5)")
    step = 1 if place == 0 else -1
    walk.get_by_role("button", name="Next" if step == 1 else "Previous").click()
    expect(walk).to_contain_text(f"{order[place + step]} ({place + step + 1} of 5)")
    n_views = {"XR_WRIST/patient00001/study1": 2, "XR_HAND/patient00002/study1": 2}.get(order[place + step], 1)
    expect(page.locator("#views img.film")).to_have_count(n_views, timeout=WAIT)
    seen = [page.get_by_role("button", name=f"Open {order[place + offset]}") for offset in (step, 0)]
    walk.get_by_role("button", name="Worklist").click()
    expect(seen[0]).to_be_focused()
    expect(seen[0]).to_be_in_viewport(ratio=1)
    for one in seen:
        expect(one).to_have_accessible_description("opened before")
    assert sorted(table.locator("bdi[data-seen]").all_text_contents()) == sorted([order[place], order[place + step]])
    open_tab(page, "Read a study")  # by the tab and back
    walk.get_by_role("button", name="Worklist").click()
    expect(seen[0]).to_be_focused()
    wanted = names(page)[1]
    table.locator(".open").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name=f"Open {wanted}")).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # there is none above the first
    expect(table.locator(".open").first).to_be_focused()
    page.get_by_role("button", name="Open ward 2/<b>patient 9").press("Enter")
    expect(study).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(details).to_contain_text("Body part found", timeout=WAIT)
    expect(page.locator("#views img.film")).to_have_count(1)
    expect(page.locator("#answer .notice.bad")).to_contain_text("image2.png is not a PNG")


def test_rows_appear_during_reading_which_ends_by_stop_or_when_the_visitor_leaves(browser, app, page, long_archive):
    unfold(page, HOW_SURE)
    open_tab(page, "Worklist")
    page.evaluate(
        """() => {
            window.seen = [];
            const note = () => window.seen.push(document.querySelector("#worklist-progress").innerText);
            new MutationObserver(note).observe(document.querySelector("#worklist-progress"),
                { subtree: true, childList: true, characterData: true });
        }"""
    )
    start(page, long_archive)
    rows, progress = page.locator("mura-worklist tbody tr"), page.locator("#worklist-progress")
    expect(rows.nth(3)).to_be_visible(timeout=WAIT)
    page.get_by_role("button", name="Study", exact=True).click()
    page.locator("mura-worklist .open").first.focus()
    count = rows.count()
    page.wait_for_function(f"document.querySelectorAll('mura-worklist tbody tr').length > {count}", timeout=WAIT)
    page.wait_for_function(  # new rows are put in their places a moment after they appear
        """() => {
            const shown = [...document.querySelectorAll("mura-worklist tbody th")].map((cell) => cell.textContent);
            const sorted = shown.toSorted((one, other) => one.split(" ").at(-1) - other.split(" ").at(-1));
            return shown.every((name, place) => name === sorted[place]);
        }""",
        timeout=WAIT,
    )
    expect(page.get_by_role("button", name=f"Open {names(page)[0]}", exact=True)).to_be_focused()
    assert progress.locator("progress").get_attribute("max") == "600"
    page.get_by_role("button", name="Stop").click()
    expect(progress).to_contain_text(re.compile(r"Stopped\. Read \d+ of 600 studies"), timeout=WAIT)
    read = int(re.search(r"Read (\d+) of", progress.inner_text())[1])
    assert download(page, "Download CSV")[1].count(b"\n") == read + 1
    pattern = re.compile(r"Read \d+ of 600 studies · [\d.]+ studies a second · about [\d.]+ (s|min|h) left")
    assert any(pattern.search(text) for text in page.evaluate("window.seen"))
    expect(page.get_by_role("button", name="Read the studies")).to_be_enabled()
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()

    other = browser.new_page()
    other.goto(app.url)
    open_tab(other, "Worklist")
    start(other, long_archive)
    expect(other.locator("#worklist-progress")).to_contain_text("studies a second", timeout=WAIT)
    page.get_by_role("button", name="Try it with twelve phantom studies").click()
    expect(progress).to_contain_text("one worklist at a time", timeout=WAIT)
    other.close()
    expect(progress).to_contain_text("Read 12 of 12 studies", timeout=WAIT)
    expect(progress).to_contain_text("bundled: mura-phantom")
    expect(rows).to_have_count(12)
    page.locator("mura-worklist .open").first.click()
    expect(page.get_by_role("tab", name="Read a study")).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(page.locator("#views .name").first).to_contain_text("phantom", timeout=WAIT)
    expect(page.locator("#details")).to_contain_text("bundled: mura-phantom")


def test_a_public_page_shows_a_privacy_notice_and_reads_no_folder(browser, strict_app):
    page = browser.new_page()
    page.goto(strict_app.url)
    expect(page.locator("#answer .answer")).to_be_visible(timeout=WAIT)
    expect(page.locator("#uploading")).to_have_count(0)
    drop(page, load_examples("film")[1].files[0])  # not before the notice is accepted
    expect(page.locator("#asking")).to_contain_text(RETENTION)
    expect(page.locator("#views .name")).to_have_text(Path(load_examples("film")[0].files[0]).name)
    open_tab(page, "Worklist")
    panel = page.locator("#worklist-asking")
    expect(panel).to_contain_text("Before you upload", timeout=WAIT)
    expect(page.locator("#worklist-upload")).to_have_count(0)
    panel.get_by_role("button", name="I understand").click()
    expect(page.locator("#worklist-upload")).to_be_visible(timeout=WAIT)
    expect(page.get_by_label("Or a folder, ZIP or CSV file")).to_have_count(0)
    open_tab(page, TABS[0])
    expect(page.locator("#uploading")).to_be_visible()  # accepted for all tabs
    expect(page.get_by_text("Before you upload")).to_have_count(0)
    unfold(page, OPTIONS)
    page.get_by_role("combobox", name="Heatmap method").click()
    expect(page.get_by_role("option", name="LayerCAM")).to_be_visible()
    expect(page.get_by_role("option", name="Occlusion")).to_have_count(0)
    page.close()
