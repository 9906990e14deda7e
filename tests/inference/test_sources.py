import http.server
import threading
import time
from pathlib import Path

import huggingface_hub.constants
import pytest

from mura_hf import CheckpointError
from mura_hf.common import BUNDLED
from mura_hf.inference.loading import find_source


@pytest.fixture
def hub(monkeypatch):
    """A server that speaks as much of the Hub's protocol as a look for one file needs."""
    answers = {
        "/nobody/nothing/": (404, "RepoNotFound"),
        "/user/model/resolve/later": (404, "RevisionNotFound"),
        "/user/empty/": (404, "EntryNotFound"),
        "/user/gated/": (403, "GatedRepo"),
        "/user/broken/": (500, None),
        "/user/model/": (200, None),
    }

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            status, code = next(answer for start, answer in answers.items() if self.path.startswith(start))
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", "abc")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_of_the_hub_is_called_by_its_name_and_revision(hub):
    assert find_source("user/model").name == "user/model"
    found = find_source("user/model", "v2")
    assert (found.location, found.revision, found.name) == ("user/model", "v2", "user/model@v2")


@pytest.mark.parametrize(
    ("name", "revision", "told"),
    [
        ("nobody/nothing", None, "no such model that you may read"),
        ("user/model", "later", "no revision 'later'"),
        ("user/empty", None, "holds no config.json"),
        ("user/gated", None, "terms to be accepted"),
        ("user/broken", None, "the Hub answers"),
    ],
)
def test_the_hubs_refusals_become_sentences(name, revision, told, hub):
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=told):
        find_source(name, revision)
    assert time.perf_counter() - start < 5  # asked once; a retry would wait


def test_a_hub_that_cannot_be_reached(hub):
    hub.shutdown()
    hub.server_close()
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="the Hub cannot be reached"):
        find_source("user/model")
    assert time.perf_counter() - start < 5


def test_offline_nothing_is_asked():
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        find_source("user/model")


@pytest.mark.parametrize("name", ["mura-nothing", "a/b/c", "./nowhere", "/nowhere", "user/..", "https://example.org"])
def test_what_cannot_be_a_name_is_refused_at_once(name):
    with pytest.raises(CheckpointError, match="neither a folder on this machine nor a Hub name"):
        find_source(name)


def test_folders_have_no_revision_and_show_no_path(tmp_path):
    assert find_source(tmp_path).name == f"folder: {tmp_path.name}"
    assert find_source(BUNDLED["mura-phantom"]).name == "bundled: mura-phantom"
    with pytest.raises(CheckpointError, match="has no revision 'main'"):
        find_source(tmp_path, "main")


def test_the_packages_own_are_known_by_name_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mura-phantom").mkdir()
    for name, folder in BUNDLED.items():
        assert find_source(name) == find_source(folder)
        assert find_source(name).name == f"bundled: {name}"
    for folder in ("./mura-phantom", Path("mura-phantom")):
        assert find_source(folder).name == "folder: mura-phantom"
    with pytest.raises(CheckpointError, match="has no revision 'main'"):
        find_source("mura-phantom", "main")
