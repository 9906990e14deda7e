"""Actions of a visitor."""

from playwright.sync_api import Page, expect

from .running import WAIT


def clear(page: Page) -> None:
    """Empties the upload box."""
    page.locator("#uploading").get_by_label("Clear").first.click()
    expect(page.locator("#answer .empty")).to_be_visible(timeout=WAIT)


def upload(page: Page, *files: str) -> None:
    """Drops files into the empty box, or adds them to those in it."""
    box = page.locator("#uploading input[type=file]")
    more = page.locator("#uploading").get_by_label("Remove this file").count() > 0
    (page.get_by_test_id("Add views-upload-button") if more else box.first).set_input_files(list(files))


def choose(page: Page, label: str, option: str) -> None:
    """Chooses an option of a dropdown."""
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option).first.click()


def choose_model(page: Page, name: str) -> None:
    """Loads a bundled checkpoint and returns to the study."""
    page.get_by_role("tab", name="Models").click()
    choose(page, "Name, Hub name or local folder", name)
    page.get_by_role("button", name="Load the model").click()
    expect(page.locator("#model-state")).to_contain_text(name, timeout=WAIT)
    page.get_by_role("tab", name="Read a study").click()
