"""A Hub on loopback, a client of it, and checkpoints to push."""

import json
import os
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import HfApi

from mura_hf.common import BUNDLED
from mura_hf.hub import commit, push
from mura_hf.retrieval import FOLDER, OOD_FILE
from tests.hub.hub_server import TOKEN, HubServer

NAME, REPO = "tester/wrists", "models/tester/wrists"


@pytest.fixture
def hub(monkeypatch):
    # The tests are offline, and the client prefers Xet; both constants are read at import.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    no_waiting = SimpleNamespace(sleep=lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", no_waiting)
    monkeypatch.setattr(commit, "time", no_waiting)
    with HubServer() as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=TOKEN)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A complete checkpoint without the optional files, for tests that do not change it."""
    folder = shutil.copytree(
        BUNDLED["mura-phantom"],
        tmp_path_factory.mktemp("whole") / "mura-phantom",
        ignore=shutil.ignore_patterns(FOLDER, OOD_FILE),
    )
    evaluation = json.loads((folder / "evaluation.json").read_text())
    kept = {name: value for name, value in evaluation.items() if name not in ("retrieval", "refusal")}
    (folder / "evaluation.json").write_text(json.dumps(kept))
    return folder


@pytest.fixture
def pushable(whole, tmp_path):
    """A copy of the complete checkpoint."""
    return shutil.copytree(whole, tmp_path / "mura-phantom")


def push_here(folder, api, **options):
    return push(folder, NAME, api=api, progress=False, **options)


def change_record(file, *path, to=None):
    """Sets a value of a JSON file, or deletes it if None."""
    values = json.loads(file.read_text())
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    file.write_text(json.dumps(values))


def writes_of(hub):
    """Requests that may change what the Hub holds."""
    return [
        (method, path) for method, path in hub.requests if method not in ("GET", "HEAD") and "validate" not in path
    ]


def hub_environment(url, home, **more):
    """Environment of another process whose Hub is at `url` and whose cache is `home`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return clean | {
        "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", **more,
    }  # fmt: skip
