"""The page as visitors use it. Each test loads it once and walks through one tab."""

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
    BUSY,
    HOW_SURE,
    OPTIONS,
    REPORT,
    SCRIPT_TEXTS,
    SHOW_ANYWAY,
    SHOW_UNUSUAL,
    TABS,
    probability_text,
)

from .actions import (
    NAME_OF_MODEL,
    choose,
    choose_model,
    clear,
    download,
    drop,
    expect_contrast,
    expect_fitting,
    expect_replaced,
    expect_revealed,
    load_model,
    open_example,
    open_tab,
    unfold,
    upload,
)
from .running import WAIT

pytestmark = pytest.mark.browser

PHANTOM_WRIST = 6  # number of the first phantom among the examples; it has three views
SHOW = "Show where the model looked"


def test_every_tab_is_accessible_fits_the_window_and_works_by_keyboard(page):
    found = []
    open_example(page, PHANTOM_WRIST)
    expect(page.locator("#views .thumb")).to_have_count(3, timeout=WAIT)
    unfold(page, HOW_SURE, ALIKE, REPORT, OPTIONS)
    page.locator("#views summary").click()
    for tab in TABS:
        open_tab(page, tab)
        expect_contrast(page)
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [(node["html"][:200], node["failureSummary"][:300]) for node in violation["nodes"][:3]]
                found.append((tab, violation["id"], nodes))
        expect_fitting(page, 360, 390, 768, 1920)
    expect(page.locator("#about")).to_contain_text(f'Client("{page.url.rstrip("/")}")')
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
    expect_contrast(page)
    expect_fitting(page, 360, 390)
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
    page.set_viewport_size({"width": 1280, "height": 800})  # the zoom is above the fold with several views, too
    expect_revealed(page)
    expect(page.locator("mura-viewer .zoom")).to_be_in_viewport(ratio=1)
    page.set_viewport_size({"width": 390, "height": 844})
    for key in ("p", "n"):
        page.locator("#views .stage").press(key)
        expect(page.locator("#views .thumb[aria-pressed=true]")).to_be_in_viewport(ratio=1)
    page.set_viewport_size({"width": 1280, "height": 900})
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
        assert page.locator("#views .stage").evaluate(menu) == (button != "right")  # where it opens on press
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
        ("Few misses", r"“Few misses” calls a study abnormal above 0\.0551", "66 of 70"),
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

    for example in (PHANTOM_WRIST, PHANTOM_WRIST + 1):  # while another study is read; the last choice counts
        open_example(page, example)
        page.locator("#answering:not([data-starting])").wait_for(timeout=WAIT)  # its reading begins
    expect(details).to_contain_text("forearm", timeout=WAIT)
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
    answer, show_anyway = page.locator("#answer .answer"), page.locator("#anyway")
    details, bad_notice = page.locator("#details"), page.locator("#answer .notice.bad")
    unfold(page, HOW_SURE)
    films = [film.files[0] for film in load_examples("film")]

    open_example(page, PHANTOM_WRIST)  # read by another checkpoint, whose operating point is not kept
    expect(details).to_contain_text("“Rule of the MURA paper”", timeout=WAIT)

    # Files that are dropped, pasted or chosen replace the study, which is gone while they are read.
    page.set_viewport_size({"width": 390, "height": 844})
    for kind, film, band in (("drop", films[2], "low"), ("paste", films[5], "uncertain")):
        open_tab(page, "About")
        with expect_replaced(page):
            drop(page, film, kind=kind)
        expect(page.get_by_role("tab", name=TABS[0])).to_have_attribute("aria-selected", "true")
        expect(page.locator("#views .name").first).to_have_text(Path(film).name, timeout=WAIT)
        expect(page.locator("#views .view")).to_have_count(1)
        expect(expect_revealed(page)).to_have_class(f"answer {band}")
        expect_contrast(page)
        expect(page.locator("#study-files")).to_contain_text(Path(film).stem)
        expect(details).to_contain_text("“Screening”")
    page.set_viewport_size({"width": 1280, "height": 900})

    # One unusual file, here a phantom, does not stop the study, and one click includes it.
    with expect_replaced(page):
        upload(page, films[0], views[0])
    expect(bad_notice).to_contain_text(
        "hand_0.png does not look like the X-rays that the model was trained on", timeout=WAIT
    )
    expect(page.locator("#views .view")).to_have_count(1)
    expect_revealed(page)
    expect_contrast(page)
    expect(show_anyway).to_have_text(SHOW_UNUSUAL)
    show_anyway.click()
    expect(page.locator("#views .view")).to_have_count(2, timeout=WAIT)
    expect(show_anyway).to_have_count(0)
    expect_revealed(page)

    upload(page, *views)
    expect(answer).to_contain_text("Not answered", timeout=WAIT)
    expect_revealed(page)
    expect(show_anyway).to_have_text(SHOW_ANYWAY)
    expect(page.locator("#how-sure")).to_be_hidden()
    expect(page.locator("#reports")).to_be_visible()
    expect(page.locator("#views img.film")).to_have_count(2)
    expect(page.locator("#views img.heat")).to_have_count(0)
    assert "Probability" not in page.locator("#right").inner_text()
    expect_contrast(page)
    show_anyway.click()
    expect(details).to_contain_text("Abnormal means fractured", timeout=WAIT)
    expect(details).to_contain_text("bundled: mura-film")
    expect(answer).to_contain_text("Perhaps meaningless")
    expect(page.locator("#views img.heat")).to_have_count(2)
    expect(show_anyway).to_have_count(0)
    expect_revealed(page)
    expect_contrast(page)
    page.get_by_label("Remove this file").first.click()
    expect(page.locator("#views .view")).to_have_count(1, timeout=WAIT)
    expect(answer).to_contain_text("Not answered")  # it is another study now
    show_anyway.click()
    expect(answer.locator(".probability")).to_be_visible(timeout=WAIT)
    expect(details.locator("dd b").first).to_have_text(answer.locator(".probability").inner_text(), timeout=WAIT)
    expect(details.locator("table")).to_have_count(0)  # one view is the whole study
    clear(page)
    expect(page.locator("#views .view")).to_have_count(0)
    expect(page.locator("#achieved")).to_have_text("")
    open_example(page, PHANTOM_WRIST + 1)
    expect(details).to_contain_text("bundled: mura-phantom", timeout=WAIT)
    expect(page.locator("#answer")).to_contain_text("This synthetic picture")
    expect(page.locator("#answer .notice")).to_have_count(0)  # the one about real radiographs
    with expect_replaced(page):
        open_example(page, PHANTOM_WRIST + 2)
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
    more = [str(tmp_path / name) for name in ("copy.png", "x.png", "photo.heic", "letter.pdf")]
    with expect_replaced(page):
        upload(page, *more, button=ADD_VIEWS)
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
    expect_contrast(page)
    with zipfile.ZipFile(packed, "w") as opened:
        for file in views:
            opened.write(file, Path(file).name)
    upload(page, str(packed))
    expect(page.locator("#views .view .name")).to_have_text(["hand_0.png", "hand_1.png"], timeout=WAIT)

    # A full queue refuses the call that reads the study, after another one has opened it.
    refused = []

    def refuse(route):
        if len(route.request.post_data_json["data"]) == 7 and not refused:  # a call that reads a study
            refused.append(True)
            route.fulfill(status=429, json={"detail": BUSY})
        else:
            route.continue_()

    page.route("**/queue/join*", refuse)
    open_example(page, PHANTOM_WRIST)
    expect(page.get_by_test_id("toast-body")).to_contain_text(BUSY, timeout=WAIT)
    expect(page.locator("#answer .reading")).to_have_text(SCRIPT_TEXTS["refused"])
    expect(page.locator("#answer progress")).to_have_count(0)
    open_example(page, PHANTOM_WRIST)
    expect(page.locator("#views .view")).to_have_count(3, timeout=WAIT)
    expect_revealed(page)


def test_models_their_cards_errors_and_the_comparison_of_two(page, checkpoint):
    unfold(page, HOW_SURE)
    open_tab(page, "Models")
    page.get_by_role("button", name="Card of the model in use").click()
    card, text, facts, state = (page.locator(f"#model-{name}") for name in ("card", "card-text", "facts", "state"))
    expect(card.locator("h1")).to_have_text("mura-film")
    expect(card.locator("img")).to_have_count(5)  # four plots and some mistakes
    assert card.locator("img").evaluate_all("images => images.every(image => image.naturalWidth > 100)")
    page.get_by_role("combobox", name=NAME_OF_MODEL).fill("mura-phantom")
    page.get_by_role("combobox", name=NAME_OF_MODEL).press("Enter")  # like the button
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
    expect_contrast(page)
    expect_fitting(page, 360, 720)
    page.set_viewport_size({"width": 600, "height": 900})
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
