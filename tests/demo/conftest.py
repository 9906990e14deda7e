"""The real app in a real browser, and its server's side without either."""

import os

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from mura_hf import StudyPredictor, read_radiograph
from mura_hf.demo.checkpoints import Checkpoints
from mura_hf.demo.context import LOOPBACK, ReadingRoom
from mura_hf.demo.examples import render_examples, write_examples
from mura_hf.demo.uploads import SessionFiles
from mura_hf.radiographs import GuardedReader

from .browsing import ARGUMENTS, CHROMIUM, WAIT
from .serving_app import serve


@pytest.fixture(scope="session")
def room(tmp_path_factory):
    """The server's side of the page."""
    folder = tmp_path_factory.mktemp("room")
    with GuardedReader(workers=1) as reader:
        yield ReadingRoom(
            Checkpoints(allow_folders=True), reader, SessionFiles(folder), LOOPBACK,
            write_examples(folder, render_examples()), public=False,
        )  # fmt: skip


@pytest.fixture(scope="session")
def study(checkpoint, phantom_files):
    """An untrained checkpoint's answer about a study of phantoms."""
    return StudyPredictor.from_pretrained(checkpoint)(phantom_files)


@pytest.fixture(scope="session")
def radiographs(phantom_files):
    """The views of `study`."""
    return [read_radiograph(file) for file in phantom_files]


@pytest.fixture(scope="session")
def address():
    """The app's address; the app runs as `python app.py` does it, in a process of its own."""
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("there is no Chromium on this machine")
    with serve() as app:
        yield app.url


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("there is no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str):
    """A new visitor's page. Whatever a test does there, the browser asks nobody else, and no script fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(address)
    expect(page.locator("#answer .answer")).to_be_visible(timeout=WAIT)
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((address, "data:", f"blob:{address}"))] == []
    assert failed == []
