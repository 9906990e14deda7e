"""Texts of strangers, and the page that strangers see."""

import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from mura_hf.demo.examples import load_examples
from mura_hf.demo.templates import HOW_SURE, OPTIONS, REPORT, RETENTION, TABS
from tests.checkpoints import make_checkpoint
from tests.inference.external import save_external

from .actions import (
    choose,
    choose_model,
    download,
    drop,
    expect_contrast,
    load_model,
    open_tab,
    start_worklist,
    unfold,
    upload,
)
from .running import WAIT

pytestmark = pytest.mark.browser

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
    choose_model(page, "mura-phantom")  # the fastest one
    open_tab(page, TABS[0])
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
    progress = page.locator("#worklist-progress")
    (tmp_path / plain[0]).write_text("no ZIP file")  # Gradio removes signs from the names of uploads
    page.set_input_files("#worklist-upload input[type=file]", str(tmp_path / plain[0]))
    expect(page.locator("#worklist-upload")).to_contain_text("hostile", timeout=WAIT)
    page.get_by_role("button", name="Read the studies").click()
    check_shown("#worklist-progress", "is not a ZIP file")
    page.locator("#worklist-upload").get_by_label("Clear").click()
    start_worklist(page, archive)
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


def test_a_public_page_shows_a_privacy_notice_and_reads_no_folder(browser, strict_app):
    page = browser.new_page()
    page.goto(strict_app.url)
    expect(page.locator("#answer .answer")).to_be_visible(timeout=WAIT)
    expect(page.locator("#uploading")).to_have_count(0)
    drop(page, load_examples("film")[1].files[0])  # not before the notice is accepted
    expect(page.locator("#asking")).to_contain_text(RETENTION)
    expect(page.locator("#views .name").first).to_contain_text(Path(load_examples("study")[0].files[0]).name)
    expect_contrast(page)
    open_tab(page, "Worklist")
    panel = page.locator("#worklist-asking")
    expect(panel).to_contain_text("Before you upload", timeout=WAIT)
    expect(page.locator("#worklist-upload")).to_have_count(0)
    expect_contrast(page)
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
