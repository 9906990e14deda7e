"""The server's side without a browser, and two running apps that all tests of a worker share."""

import os
import shutil

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from mura_hf import StudyPredictor, read_radiograph
from mura_hf.demo.examples import load_examples
from mura_hf.demo.state import LOCAL_LIMITS, AppContext, CheckpointCache
from mura_hf.demo.uploads import Uploads
from mura_hf.radiographs import GuardedReader

from .running import STRICT, WAIT, start_app

pytest.register_assert_rewrite("tests.demo.actions")  # so that its failures say what was found

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def context(tmp_path_factory):
    """The server's side of the page."""
    with GuardedReader(workers=1) as reader:
        uploads = Uploads(tmp_path_factory.mktemp("uploads"))
        yield AppContext(
            CheckpointCache(allow_folders=True), reader, uploads, LOCAL_LIMITS, load_examples("study"), public=False
        )


@pytest.fixture(scope="session")
def predictor(checkpoint):
    """An untrained checkpoint."""
    return StudyPredictor.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def study(predictor, phantom_files):
    """A prediction for a study of phantoms."""
    return predictor(phantom_files)


@pytest.fixture(scope="session")
def radiographs(phantom_files):
    """The views of `study`."""
    return [read_radiograph(file) for file in phantom_files]


@pytest.fixture(scope="session")
def app():
    """`python app.py`. It ends when it is asked to, and leaves no files."""
    with start_app() as app:
        yield app
        folder = app.folder
        app.process.terminate()
        assert app.process.wait(30) == 0
        assert not folder.exists()


@pytest.fixture(scope="session")
def strict_app():
    """An app that other people can reach, with small limits, handlers that fail, and the fastest checkpoint."""
    with start_app({"MURA_PUBLIC": "1", "MURA_CHECKPOINT": "mura-phantom"}, STRICT) as app:
        yield app


@pytest.fixture(scope="session")
def browser():
    if _CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, app):
    """The page of a new visitor. It must not contact another server, and no script may fail."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    urls, errors = [], []
    page.on("request", lambda request: urls.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app.url)
    expect(page.locator("#answer .answer")).to_be_visible(timeout=WAIT)
    yield page
    context.close()
    assert [url for url in urls if not url.startswith((app.url, "data:", f"blob:{app.url}"))] == []
    assert errors == []
