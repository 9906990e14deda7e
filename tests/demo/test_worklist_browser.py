"""The tab "Worklist", as a visitor uses it."""

import io
import json
import re
import zipfile

import pytest
from PIL import Image
from playwright.sync_api import expect

from mura_hf import StudyPredictor
from mura_hf.inference import WorklistRow, find_studies, predict_rows, sort_rows, worklist_csv, worklist_json
from mura_hf.phantoms import render_phantom

from .browsing import WAIT, choose, choose_model
from .serving_app import serve

_STUDIES = (
    ("XR_WRIST/patient00001/study1_positive", "wrist", "displaced_fracture", 2),
    ("XR_HAND/patient00002/study1_negative", "hand", None, 2),
    ("ward 2/<b>patient 10", "elbow", "hardware", 1),
    ("ward 2/<b>patient 9", "finger", None, 1),
)


def _png(seed, part, view, finding, size=512):
    buffer = io.BytesIO()
    pixels = render_phantom(seed, body_part=part, view=view, finding=finding, size=size).pixels
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A few studies, among them one with a broken view, and one of nothing else."""
    file = tmp_path_factory.mktemp("archive") / "monday.zip"
    with zipfile.ZipFile(file, "w") as opened:
        for seed, (folder, part, finding, views) in enumerate(_STUDIES, 871_000):
            for view in range(views):
                opened.writestr(f"{folder}/image{view + 1}.png", _png(seed, part, view, finding))
        opened.writestr("ward 2/<b>patient 9/image2.png", b"no picture")
        opened.writestr("ward 3/image1.png", b"no picture")
    return file


@pytest.fixture(scope="module")
def long_archive(tmp_path_factory):
    """Six hundred small studies."""
    file, picture = tmp_path_factory.mktemp("archive") / "long.zip", _png(871_100, "wrist", 0, None, 128)
    with zipfile.ZipFile(file, "w") as opened:
        for number in range(600):
            for view in range(2):
                opened.writestr(f"patient {number}/image{view}.png", picture)
    return file


@pytest.fixture
def worklist(page):
    """The tab, with the model of the phantoms."""
    choose_model(page, "mura-phantom")
    page.get_by_role("tab", name="Worklist").click()
    return page


def _begin(page, file):
    page.set_input_files("#worklist-upload input[type=file]", str(file))
    shown = re.compile(rf"{file.stem}\s*{file.suffix}")  # the name may be broken where the box is narrow
    expect(page.locator("#worklist-upload")).to_contain_text(shown, timeout=WAIT)
    page.get_by_role("button", name="Read the studies").click()


def _read(page, file):
    _begin(page, file)
    expect(page.get_by_role("button", name="Download CSV")).to_be_visible(timeout=WAIT)


def _names(page):
    return page.locator("mura-worklist tbody tr:not([hidden]) th").all_text_contents()


def _download(page, label):
    with page.expect_download() as download:
        page.get_by_role("button", name=label).click()
    with open(download.value.path(), "rb") as file:
        return download.value.suggested_filename, file.read().decode()


def test_a_zip_file_becomes_a_list_and_the_files_that_the_command_writes(worklist, archive):
    _read(worklist, archive)
    rows = sort_rows(predict_rows(StudyPredictor.from_pretrained("mura-phantom"), find_studies(archive)))
    assert _names(worklist) == [row.study for row in rows]
    assert _download(worklist, "Download CSV") == ("worklist.csv", worklist_csv(rows))
    name, text = _download(worklist, "Download JSON")
    found = [WorklistRow.from_dict(row) for row in json.loads(text)]
    assert (name, text) == ("worklist.json", worklist_json(found))
    for row, expected in zip(found, rows, strict=True):
        assert row.probability == pytest.approx(expected.probability, abs=1e-5)
        assert {**row.to_dict(), "probability": 0} == {**expected.to_dict(), "probability": 0}
    progress = worklist.locator("#worklist-progress")
    expect(progress).to_contain_text("Read 5 of 5 studies")
    expect(progress).to_contain_text("1 no answer")
    table = worklist.locator("mura-worklist")
    expect(table.locator("tr", has_text="patient 9").locator(".notes")).to_contain_text("Left out: image2.png is not")
    expect(table.locator("tr", has_text="ward 3").locator(".band")).to_contain_text("No answer")
    expect(table.locator(".notice")).to_have_count(1)  # of the phantoms' model, once for all
    assert table.locator("tbody b").count() == 0


def test_columns_sort_and_filters_filter(worklist, archive):
    _read(worklist, archive)
    first = _names(worklist)
    header = worklist.locator("mura-worklist thead th")
    expect(header.nth(2)).to_have_attribute("aria-sort", "descending")
    worklist.get_by_role("button", name="Study", exact=True).click()
    expect(header.nth(0)).to_have_attribute("aria-sort", "ascending")
    expect(header.nth(2)).to_have_attribute("aria-sort", "none")
    assert _names(worklist) == [
        "ward 2/<b>patient 9", "ward 2/<b>patient 10", "ward 3", "XR_HAND/patient00002/study1",
        "XR_WRIST/patient00001/study1",
    ]  # fmt: skip
    worklist.get_by_role("button", name="P(abnormal)").press("Enter")
    assert _names(worklist) == first
    worklist.get_by_role("button", name="P(abnormal)").press("Enter")
    expect(header.nth(2)).to_have_attribute("aria-sort", "ascending")
    assert _names(worklist) == [*first[:4][::-1], first[4]]  # what has no answer stays last
    worklist.locator("mura-worklist").get_by_label("Body part").select_option("hand")
    assert _names(worklist) == ["XR_HAND/patient00002/study1"]
    expect(worklist.locator("mura-worklist .shown")).to_have_text("1 of 5 studies")
    worklist.locator("mura-worklist").get_by_label("Body part").select_option("")
    worklist.locator("mura-worklist").get_by_label("Answer").select_option("failed")
    assert _names(worklist) == ["ward 3"]


def test_a_row_opens_in_the_study_tab_by_mouse_and_by_keyboard(worklist, archive):
    _read(worklist, archive)
    worklist.locator("mura-worklist tr", has_text="XR_WRIST").locator(".band").click()
    study = worklist.get_by_role("tab", name="Read a study")
    expect(study).to_have_attribute("aria-selected", "true", timeout=WAIT)
    answer = worklist.locator("#answer .answer")
    expect(answer).to_contain_text("wrist (given by you)", timeout=WAIT)
    expect(worklist.locator("#views img.film")).to_have_count(2)
    worklist.get_by_role("tab", name="Worklist").click()
    wanted = _names(worklist)[1]
    worklist.locator("mura-worklist .open").first.focus()
    worklist.keyboard.press("ArrowDown")
    expect(worklist.get_by_role("button", name=f"Open {wanted}")).to_be_focused()
    worklist.keyboard.press("ArrowUp")
    worklist.keyboard.press("ArrowUp")  # there is none above the first
    expect(worklist.locator("mura-worklist .open").first).to_be_focused()
    worklist.get_by_role("button", name="Open ward 2/<b>patient 9").press("Enter")
    expect(study).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(answer).to_contain_text("Body part found", timeout=WAIT)
    expect(worklist.locator("#views img.film")).to_have_count(1)
    expect(worklist.locator("#answer .notice.bad")).to_contain_text("image2.png is not a PNG")


def test_rows_come_while_it_reads_keep_the_readers_order_and_stop(worklist, long_archive):
    worklist.evaluate(
        """() => {
            window.told = [];
            const note = () => window.told.push(document.querySelector("#worklist-progress").innerText);
            new MutationObserver(note).observe(document.querySelector("#worklist-progress"),
                { subtree: true, childList: true, characterData: true });
        }"""
    )
    _begin(worklist, long_archive)
    rows = worklist.locator("mura-worklist tbody tr")
    expect(rows.nth(3)).to_be_visible(timeout=WAIT)
    worklist.get_by_role("button", name="Study", exact=True).click()
    worklist.locator("mura-worklist .open").first.focus()
    count = rows.count()
    worklist.wait_for_function(f"document.querySelectorAll('mura-worklist tbody tr').length > {count}", timeout=WAIT)
    names = _names(worklist)
    assert names == sorted(names, key=lambda name: int(name.split()[-1]))
    expect(worklist.get_by_role("button", name=f"Open {names[0]}", exact=True)).to_be_focused()
    assert worklist.locator("#worklist-progress progress").get_attribute("max") == "600"
    worklist.get_by_role("button", name="Stop").click()
    progress = worklist.locator("#worklist-progress")
    expect(progress).to_contain_text(re.compile(r"Stopped\. Read \d+ of 600 studies"), timeout=WAIT)
    read = int(re.search(r"Read (\d+) of", progress.inner_text())[1])
    assert _download(worklist, "Download CSV")[1].count("\n") == read + 1
    pattern = re.compile(r"Read \d+ of 600 studies · [\d.]+ studies a second · about \d+ (s|min) left")
    assert any(pattern.search(text) for text in worklist.evaluate("window.told"))
    expect(worklist.get_by_role("button", name="Read the studies")).to_be_enabled()
    expect(worklist.get_by_role("button", name="Stop")).to_be_disabled()


def test_who_leaves_makes_room_for_the_next(browser, address, worklist, long_archive):
    other = browser.new_page()
    other.goto(address)
    other.get_by_role("tab", name="Worklist").click()
    _begin(other, long_archive)
    expect(other.locator("#worklist-progress")).to_contain_text("studies a second", timeout=WAIT)
    worklist.get_by_role("button", name="Try it with twelve phantom studies").click()
    expect(worklist.locator("#worklist-progress")).to_contain_text("one worklist is read at a time", timeout=WAIT)
    other.close()
    expect(worklist.locator("#worklist-progress")).to_contain_text("Read 12 of 12", timeout=20_000)


def test_phantoms_are_at_hand_and_read_by_their_model(page):
    page.get_by_role("tab", name="Worklist").click()
    expect(page.locator("#worklist-help")).to_contain_text("each folder that holds pictures is one study")
    page.get_by_role("button", name="Try it with twelve phantom studies").click()
    expect(page.locator("#worklist-progress")).to_contain_text("Read 12 of 12 studies", timeout=WAIT)
    expect(page.locator("#worklist-progress")).to_contain_text("bundled: mura-phantom")
    expect(page.locator("mura-worklist tbody tr")).to_have_count(12)
    page.locator("mura-worklist .open").first.click()
    expect(page.get_by_role("tab", name="Read a study")).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(page.locator("#views .name").first).to_contain_text("phantom", timeout=WAIT)
    expect(page.locator("#answer .answer")).to_contain_text("bundled: mura-phantom")


def test_what_is_no_worklist_is_said_in_words(worklist, tmp_path):
    trouble = worklist.locator("#worklist-progress .notice")
    worklist.get_by_role("button", name="Read the studies").click()
    expect(trouble).to_contain_text("There is nothing to read yet", timeout=WAIT)
    wrong = tmp_path / "wrong.zip"
    wrong.write_text("This is a letter.")
    _begin(worklist, wrong)
    expect(trouble).to_contain_text("wrong.zip is no ZIP file, or a damaged one", timeout=WAIT)
    expect(worklist.get_by_role("button", name="Read the studies")).to_be_enabled()
    empty = tmp_path / "empty.zip"
    with zipfile.ZipFile(empty, "w") as opened:
        opened.writestr("letters/letter.txt", "Dear doctor")
    worklist.locator("#worklist-upload").get_by_label("Clear").click()
    _begin(worklist, empty)
    expect(trouble).to_have_text("empty.zip holds no picture (PNG, JPEG or DICOM).", timeout=WAIT)
    worklist.get_by_label("Or a folder, ZIP or CSV file").fill(str(tmp_path))
    worklist.get_by_role("button", name="Read the studies").click()
    expect(trouble).to_contain_text("Both a ZIP file and a path are given", timeout=WAIT)


def test_a_folder_of_this_machine_is_read_at_another_operating_point(worklist, archive, tmp_path):
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    choose(worklist, "Operating point", "Few misses")
    worklist.get_by_label("Or a folder, ZIP or CSV file").fill(str(tmp_path))
    worklist.get_by_role("button", name="Read the studies").click()
    expect(worklist.locator("#worklist-progress")).to_contain_text("Read 5 of 5 studies", timeout=WAIT)
    expect(worklist.locator("#worklist-progress")).to_contain_text("“Few misses”")


def test_where_strangers_come_a_word_about_privacy_comes_first_and_no_folder_is_read(browser):
    with serve({"GRADIO_SERVER_NAME": "0.0.0.0"}) as app:
        page = browser.new_page()
        page.goto(app.url)
        page.get_by_role("tab", name="Worklist").click()
        panel = page.locator("#worklist-asking")
        expect(panel).to_contain_text("Before you upload", timeout=WAIT)
        expect(page.locator("#worklist-upload")).to_have_count(0)
        panel.get_by_role("button", name="I understand").click()
        expect(page.locator("#worklist-upload")).to_be_visible(timeout=WAIT)
        expect(page.get_by_label("Or a folder, ZIP or CSV file")).to_have_count(0)
        page.close()
