"""What holds for every tab: accessibility, widths, light and dark, the keyboard."""

import io
import json

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from .running import WAIT

pytestmark = pytest.mark.browser

TABS = ("Read a study", "Worklist", "Models", "About")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_tab_is_accessible_and_fits_the_window(browser, app, theme):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{app.url}/?__theme={theme}")
    expect(page.locator("#answer .answer")).to_be_visible(timeout=WAIT)
    found = []
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [(node["html"][:200], node["failureSummary"][:300]) for node in violation["nodes"][:3]]
                found.append((tab, violation["id"], nodes))
        for width in (360, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        page.set_viewport_size({"width": 1280, "height": 900})
    assert found == [], json.dumps(found, indent=1)
    page.set_viewport_size({"width": 390, "height": 900})
    with Image.open(io.BytesIO(page.screenshot())) as image:
        corner = np.asarray(image.convert("L"))[-40:, :4].mean()
    page.close()
    assert (corner < 90) == (theme == "dark")


def test_a_study_is_read_by_keyboard_alone(page):
    """From the top of the page to another example's answer, its views, its heatmap and another operating point."""

    def tab_to(selector, limit=80):
        for _ in range(limit):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement !== null && document.activeElement.matches({selector!r})"):
                return
        pytest.fail(f"{selector} is not reached by the keyboard")

    tab_to("#examples button")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#answer .answer")).to_contain_text("hand", timeout=WAIT)
    page.locator("#read").focus()
    tab_to("#views .thumb")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#views .thumb").nth(1)).to_have_attribute("aria-pressed", "true")
    tab_to("#views .stage")
    page.keyboard.press("h")
    expect(page.locator("mura-viewer output[data-of=split]")).to_have_text("100 %")
    page.keyboard.press("+")
    expect(page.locator("mura-viewer output[data-of=zoom]")).to_have_text("140 %")
    before = page.locator("#views .stack:visible").get_attribute("style")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#views .stack:visible")).not_to_have_attribute("style", before)
    page.keyboard.press("n")
    expect(page.locator("#views .thumb").nth(0)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("combobox", name="Operating point").focus()
    for key in ("ArrowDown", "ArrowUp", "Home", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#answer .answer")).to_be_visible()
    page.get_by_role("tab", name="Read a study").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Worklist")).to_have_attribute("aria-selected", "true")
