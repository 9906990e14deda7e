"""A Hub on loopback, a client of it, and checkpoints to push."""

import json
import os
import shutil
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image

from mura_hf import CheckpointError
from mura_hf.common import BUNDLED
from mura_hf.hub import commit, push
from mura_hf.hub.push_checks import check_checkpoint
from mura_hf.retrieval import FOLDER, OOD_FILE
from tests.hub.hub_server import TOKEN, HubServer

NAME, REPO = "tester/wrists", "models/tester/wrists"


@pytest.fixture(scope="session", autouse=True)
def _plots_are_drawn_once(tmp_path_factory):
    """Pushes of the same evaluation share its plots."""
    module, drawn = sys.modules["mura_hf.hub.push"], {}
    draw = module.plot_evaluation

    def copy(report, folder):
        key = json.dumps(report)
        if key not in drawn:
            place = tmp_path_factory.mktemp("plots")
            draw(report, place)
            drawn[key] = place
        shutil.copytree(drawn[key], folder, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "plot_evaluation", copy)
        yield


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
    return push(folder, NAME, api=api, **options)


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


@contextmanager
def changed(file, content=None):
    """Writes a file for the length of a block, or removes it if there is no content."""
    before = file.read_bytes() if file.exists() else None
    file.unlink() if content is None else file.write_bytes(content)
    yield
    file.unlink() if before is None else file.write_bytes(before)


def assert_refused(folder, message):
    """The checkpoint may not leave this machine."""
    with pytest.raises(CheckpointError, match=message):
        check_checkpoint(folder)


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


ALONE = """
import json, sys
sys.modules["mura_hf"] = None  # any import of the package raises from here on
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

names, *files = sys.argv[1:]
out = {}
for name in names.split(","):
    processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
    model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True)
    pixels = processor([Image.open(file) for file in files], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        logits, study = model(pixels).logits, model(pixels[None]).study_logits
    read = pipeline("mura-study-classification", model=name, trust_remote_code=True, device="cpu")
    found = {"module": type(model).__module__.split(".")[0], "class": type(model).__name__}
    found["pixel_values"] = pixels.double().ravel()[::997].tolist()
    found |= {"logits": logits.tolist(), "study_logits": study[0].tolist()}
    found["probability"] = read([files], views=True)[0]["probability"]
    if found["class"] == "MuraForImageClassification":
        with torch.inference_mode():
            model = AutoModel.from_pretrained(name, trust_remote_code=True)
            found["codes"] = model(pixels).pooler_output.tolist()
        classify = pipeline("image-classification", model=name, trust_remote_code=True, device="cpu")
        found["scores"] = {row["label"]: row["score"] for row in classify(files[0])}
    out[name] = found
print(json.dumps(out))
"""
"""Loads checkpoints with transformers and timm alone: names separated by commas, then the files of one study."""


def check_alone(found, model, processor, files):
    """What `ALONE` printed about one checkpoint equals the results of the package."""
    pixels = processor([Image.open(file) for file in files], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        views, study = model(pixels), model(pixels[None]).study_logits[0]
    assert (found["module"], found["class"]) == ("transformers_modules", type(model).__name__)
    np.testing.assert_array_equal(found["pixel_values"], pixels.double().ravel()[::997])
    np.testing.assert_allclose(found["logits"], views.logits, atol=1e-5)
    np.testing.assert_allclose(found["study_logits"], study, atol=1e-5)
    assert found["probability"] == pytest.approx(float(study.softmax(-1)[1]), abs=1e-5)
    if "codes" in found:
        np.testing.assert_allclose(found["codes"], views.pooler_output, atol=1e-5)
        expected = dict(zip(("normal", "abnormal"), views.logits[0].softmax(-1).tolist(), strict=True))
        assert found["scores"] == pytest.approx(expected, abs=1e-5)
