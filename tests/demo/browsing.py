"""How tests use the page."""

import shutil

from playwright.sync_api import Page, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT = 60_000  # ms


def clear(page: Page) -> None:
    """Empties the box of files."""
    page.locator("#uploading").get_by_label("Clear").first.click()
    expect(page.locator("#answer .empty")).to_be_visible(timeout=WAIT)


def upload(page: Page, *files: str) -> None:
    """Drops files into the empty box, or adds them to those that lie there."""
    box = page.locator("#uploading input[type=file]")
    more = page.locator("#uploading").get_by_label("Remove this file").count() > 0
    (page.get_by_test_id("Add views-upload-button") if more else box.first).set_input_files(list(files))


def choose(page: Page, label: str, option: str) -> None:
    """Takes an option from one of the dropdowns."""
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option).first.click()


def choose_model(page: Page, name: str) -> None:
    """Loads one of the bundled models, and goes back to the study."""
    page.get_by_role("tab", name="Models").click()
    choose(page, "Name, Hub name or local folder", name)
    page.get_by_role("button", name="Load the model").click()
    expect(page.locator("#model-state")).to_contain_text(name, timeout=WAIT)
    page.get_by_role("tab", name="Read a study").click()
