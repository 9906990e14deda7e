"""The tab "Worklist", as a visitor uses it."""

import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from mura_hf import StudyPredictor
from mura_hf.demo.examples import load_examples
from mura_hf.inference import WorklistRow, find_studies, predict_rows, sort_rows, worklist_csv, worklist_json

from .browsing import choose, choose_model
from .running import WAIT

pytestmark = pytest.mark.browser

_STUDIES = {  # folder: number of the example, number of views
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
        for folder, (number, n_views) in _STUDIES.items():
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
        for number in range(600):
            for view in range(2):
                opened.writestr(f"patient {number}/image{view}.png", buffer.getvalue())
    return file


def _start(page, file):
    page.set_input_files("#worklist-upload input[type=file]", str(file))
    shown = re.compile(rf"{file.stem}\s*{file.suffix}")  # the name may be broken where the box is narrow
    expect(page.locator("#worklist-upload")).to_contain_text(shown, timeout=WAIT)
    page.get_by_role("button", name="Read the studies").click()


def _names(page):
    return page.locator("mura-worklist tbody tr:not([hidden]) th").all_text_contents()


def _download(page, label):
    with page.expect_download() as download:
        page.get_by_role("button", name=label).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes().decode()


def test_a_zip_file_is_listed_sorted_filtered_and_opened(page, archive):
    choose_model(page, "mura-phantom")
    page.get_by_role("tab", name="Worklist").click()
    _start(page, archive)
    expect(page.get_by_role("button", name="Download CSV")).to_be_visible(timeout=WAIT)
    rows = sort_rows(predict_rows(StudyPredictor.from_pretrained("mura-phantom"), find_studies(archive)))
    first = _names(page)
    assert first == [row.study for row in rows]
    assert _download(page, "Download CSV") == ("worklist.csv", worklist_csv(rows))
    name, text = _download(page, "Download JSON")
    found = [WorklistRow.from_dict(row) for row in json.loads(text)]
    assert (name, text) == ("worklist.json", worklist_json(found))
    for row, expected in zip(found, rows, strict=True):
        assert row.probability == pytest.approx(expected.probability, abs=1e-5)
        assert {**row.to_dict(), "probability": 0} == {**expected.to_dict(), "probability": 0}
    progress = page.locator("#worklist-progress")
    expect(progress).to_contain_text("Read 5 of 5 studies")
    expect(progress).to_contain_text("1 no answer")
    table = page.locator("mura-worklist")
    expect(table.locator("tr", has_text="patient 9").locator(".notes")).to_contain_text("Left out: image2.png is not")
    expect(table.locator("tr", has_text="ward 3").locator(".band")).to_contain_text("No answer")
    expect(table.locator(".notice")).to_have_count(1)  # of the checkpoint, for all studies
    assert table.locator("tbody b").count() == 0

    header = page.locator("mura-worklist thead th")
    expect(header.nth(2)).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="Study", exact=True).click()
    expect(header.nth(0)).to_have_attribute("aria-sort", "ascending")
    expect(header.nth(2)).to_have_attribute("aria-sort", "none")
    assert _names(page) == [
        "ward 2/<b>patient 9", "ward 2/<b>patient 10", "ward 3", "XR_HAND/patient00002/study1",
        "XR_WRIST/patient00001/study1",
    ]  # fmt: skip
    page.get_by_role("button", name="P(abnormal)").press("Enter")
    assert _names(page) == first
    page.get_by_role("button", name="P(abnormal)").press("Enter")
    expect(header.nth(2)).to_have_attribute("aria-sort", "ascending")
    assert _names(page) == [*first[:4][::-1], first[4]]  # studies without an answer stay last
    table.get_by_label("Body part").select_option("hand")
    assert _names(page) == ["XR_HAND/patient00002/study1"]
    expect(table.locator(".shown")).to_have_text("1 of 5 studies")
    table.get_by_label("Body part").select_option("")
    table.get_by_label("Answer").select_option("failed")
    assert _names(page) == ["ward 3"]
    table.get_by_label("Answer").select_option("")

    table.locator("tr", has_text="XR_WRIST").locator(".band").click()
    study, answer = page.get_by_role("tab", name="Read a study"), page.locator("#answer .answer")
    expect(study).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(answer).to_contain_text("wrist (given by you)", timeout=WAIT)
    expect(page.locator("#views img.film")).to_have_count(2)
    page.get_by_role("tab", name="Worklist").click()
    wanted = _names(page)[1]
    page.locator("mura-worklist .open").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name=f"Open {wanted}")).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # there is none above the first
    expect(page.locator("mura-worklist .open").first).to_be_focused()
    page.get_by_role("button", name="Open ward 2/<b>patient 9").press("Enter")
    expect(study).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(answer).to_contain_text("Body part found", timeout=WAIT)
    expect(page.locator("#views img.film")).to_have_count(1)
    expect(page.locator("#answer .notice.bad")).to_contain_text("image2.png is not a PNG")


def test_rows_appear_during_reading_which_ends_by_stop_or_when_the_visitor_leaves(browser, app, page, long_archive):
    page.get_by_role("tab", name="Worklist").click()
    page.evaluate(
        """() => {
            window.seen = [];
            const note = () => window.seen.push(document.querySelector("#worklist-progress").innerText);
            new MutationObserver(note).observe(document.querySelector("#worklist-progress"),
                { subtree: true, childList: true, characterData: true });
        }"""
    )
    _start(page, long_archive)
    rows, progress = page.locator("mura-worklist tbody tr"), page.locator("#worklist-progress")
    expect(rows.nth(3)).to_be_visible(timeout=WAIT)
    page.get_by_role("button", name="Study", exact=True).click()
    page.locator("mura-worklist .open").first.focus()
    count = rows.count()
    page.wait_for_function(f"document.querySelectorAll('mura-worklist tbody tr').length > {count}", timeout=WAIT)
    names = _names(page)
    assert names == sorted(names, key=lambda name: int(name.split()[-1]))
    expect(page.get_by_role("button", name=f"Open {names[0]}", exact=True)).to_be_focused()
    assert page.locator("#worklist-progress progress").get_attribute("max") == "600"
    page.get_by_role("button", name="Stop").click()
    expect(progress).to_contain_text(re.compile(r"Stopped\. Read \d+ of 600 studies"), timeout=WAIT)
    read = int(re.search(r"Read (\d+) of", progress.inner_text())[1])
    assert _download(page, "Download CSV")[1].count("\n") == read + 1
    pattern = re.compile(r"Read \d+ of 600 studies · [\d.]+ studies a second · about \d+ (s|min) left")
    assert any(pattern.search(text) for text in page.evaluate("window.seen"))
    expect(page.get_by_role("button", name="Read the studies")).to_be_enabled()
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()

    other = browser.new_page()
    other.goto(app.url)
    other.get_by_role("tab", name="Worklist").click()
    _start(other, long_archive)
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
    expect(page.locator("#answer .answer")).to_contain_text("bundled: mura-phantom")


def test_errors_are_explained_and_a_folder_is_read_at_another_operating_point(page, archive, tmp_path):
    choose_model(page, "mura-phantom")
    page.get_by_role("tab", name="Worklist").click()
    error, read = page.locator("#worklist-progress .notice"), page.get_by_role("button", name="Read the studies")
    expect(page.locator("#worklist-help")).to_contain_text("each folder that contains pictures is one study")
    read.click()
    expect(error).to_contain_text("There is nothing to read yet", timeout=WAIT)
    wrong, empty = tmp_path / "wrong.zip", tmp_path / "empty.zip"
    wrong.write_text("This is a letter.")
    _start(page, wrong)
    expect(error).to_contain_text("wrong.zip is not a ZIP file, or it is damaged", timeout=WAIT)
    expect(read).to_be_enabled()
    with zipfile.ZipFile(empty, "w") as opened:
        opened.writestr("letters/letter.txt", "Dear doctor")
    page.locator("#worklist-upload").get_by_label("Clear").click()
    _start(page, empty)
    expect(error).to_contain_text("empty.zip ", timeout=WAIT)
    page.get_by_label("Or a folder, ZIP or CSV file").fill(str(tmp_path))
    read.click()
    expect(error).to_contain_text("either a ZIP file or a path", timeout=WAIT)
    page.locator("#worklist-upload").get_by_label("Clear").click()
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "films")
    page.get_by_label("Or a folder, ZIP or CSV file").fill(str(tmp_path / "films"))
    choose(page, "Operating point", "Few misses")
    read.click()
    expect(page.locator("#worklist-progress")).to_contain_text("Read 5 of 5 studies", timeout=WAIT)
    expect(page.locator("#worklist-progress")).to_contain_text("“Few misses”")
