"""The tab "Worklist" as visitors use it."""

import io
import json
import re
import zipfile

import pytest
from PIL import Image
from playwright.sync_api import expect

from mura_hf import StudyPredictor
from mura_hf.demo.examples import load_examples
from mura_hf.demo.templates import HOW_SURE
from mura_hf.inference import find_studies, predict_rows, sort_rows, worklist_csv

from .actions import (
    choose,
    choose_model,
    download,
    drop,
    expect_contrast,
    expect_fitting,
    expect_replaced,
    expect_revealed,
    open_tab,
    start_worklist,
    unfold,
)
from .running import WAIT

pytestmark = pytest.mark.browser

STUDIES = {  # folder: number of the example, number of views
    "XR_WRIST/patient00001/study1_positive": (10, 2),
    "XR_HAND/patient00002/study1_negative": (7, 2),
    "ward 2/<b>patient 10": (4, 1),
    "ward 2/<b>patient 9": (3, 1),
}


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
    start_worklist(page, wrong)
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
    # While the worklist is open, a ZIP file that is dropped beside its box goes there, and replaces the one before.
    for file in (wrong, archive):
        drop(page, str(file))
        expect(page.locator("#worklist-upload")).to_contain_text(file.stem, timeout=WAIT)
    expect(page.get_by_role("tab", name="Worklist")).to_have_attribute("aria-selected", "true")
    read.click()
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
    expect_contrast(page)
    expect_fitting(page, 360, 768)
    outdated = page.locator("#worklist-outdated")
    for point, is_old in (("Few misses", True), ("Rule of the MURA paper", False)):
        choose(page, "Operating point", point)
        expect(outdated).to_be_visible(visible=is_old, timeout=WAIT)

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
    assert names(page) == first[::-1]
    table.get_by_label("Body part").select_option("hand")
    assert names(page) == ["XR_HAND/patient00002/study1"]
    expect(table.locator(".shown")).to_have_text("1 of 5 studies")
    table.get_by_label("Body part").select_option("")
    table.get_by_label("Answer").select_option("failed")
    assert names(page) == ["ward 3"]
    table.get_by_label("Answer").select_option("")

    order = names(page)
    with expect_replaced(page):
        table.locator("tr", has_text="XR_WRIST").locator(".band").click()
    study, details = page.get_by_role("tab", name="Read a study"), page.locator("#details")
    expect(study).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(details).to_contain_text("wrist (given by you)", timeout=WAIT)
    expect(page.locator("#views img.film")).to_have_count(2)
    expect_revealed(page)
    # The buttons above it follow the order of the table, and lead back to the place in it.
    walk, place = page.locator("mura-walk"), order.index("XR_WRIST/patient00001/study1")
    expect(walk).to_contain_text(f"{order[place]} ({place + 1} of 5)")
    step = next(one for one in (1, -1) if order[place + one : place + one + 1] not in ([], ["ward 3"]))
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
    page.set_viewport_size({"width": 390, "height": 844})
    with expect_replaced(page):
        page.get_by_role("button", name="Open ward 2/<b>patient 9").press("Enter")
    expect(study).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect_revealed(page)
    expect(details).to_contain_text("Body part found", timeout=WAIT)
    expect(page.locator("#views img.film")).to_have_count(1)
    expect(page.locator("#answer .notice.bad")).to_contain_text("image2.png is not a PNG")


def test_rows_appear_during_reading_which_ends_by_stop_or_when_the_visitor_leaves(browser, app, page, long_archive):
    unfold(page, HOW_SURE)
    choose_model(page, "mura-phantom")  # the fastest one
    open_tab(page, "Worklist")
    page.evaluate(
        """() => {
            window.seen = [];
            const note = () => window.seen.push(document.querySelector("#worklist-progress").innerText);
            new MutationObserver(note).observe(document.querySelector("#worklist-progress"),
                { subtree: true, childList: true, characterData: true });
        }"""
    )
    start_worklist(page, long_archive)
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
    start_worklist(other, long_archive)
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
