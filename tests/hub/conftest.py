"""A Hub on loopback, and a client that pushes to it."""

import json
import shutil

import huggingface_hub
import pytest
from huggingface_hub import HfApi

from mura_hf.common import BUNDLED
from mura_hf.retrieval import FOLDER, OOD_FILE
from tests.hub.hub_server import TOKEN, HubServer


class _NoWaiting:
    """Stands for the module `time` in the client, which waits between its own tries."""

    @staticmethod
    def sleep(seconds: float) -> None:
        pass


@pytest.fixture
def hub(monkeypatch):
    # The suite is offline, and the client would rather speak Xet; both are read when it is imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", _NoWaiting)
    with HubServer() as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=TOKEN)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A checkpoint that lacks nothing that one must have, for all tests that only copy it."""
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
    """A copy of one's own."""
    return shutil.copytree(whole, tmp_path / "mura-phantom")
