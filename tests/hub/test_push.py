"""Pushes to a Hub on loopback, through the unmodified client."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image

from mura_hf import HubError, MuraForImageClassification, MuraImageProcessor, StudyPredictor
from mura_hf.hub import render_card
from mura_hf.hub.export import model_code_names
from mura_hf.metrics import PLOTS
from tests.hub.hub_server import TOKEN
from tests.hub.pushing import NAME, REPO, push_here, writes_of

ROOT = Path(__file__).parents[2]


def test_one_commit_holds_all_and_comes_back_the_same(pushable, hub, api):
    result = push_here(pushable, api)
    repo, found = hub.repos[REPO], hub.files(REPO)
    assert result.changed
    assert len(repo.commits) == 2  # the Hub's own, and ours
    assert result.commit == repo.branches["main"]
    assert result.url == f"{hub.url}/{NAME}/tree/{result.commit}"
    assert repo.private
    assert found.pop(".gitattributes")
    assert result.files == sorted((name, len(content)) for name, content in found.items())
    code = {name for name in found if name.endswith(".py")}
    assert "modeling_mura.py" in code <= model_code_names()
    for name in ("model.safetensors", "golden.safetensors", "evaluation.json", "training.json"):
        assert found[name] == (pushable / name).read_bytes()
    rest = set(found) - code - {"model.safetensors", "golden.safetensors", "evaluation.json", "training.json"}
    assert rest == {"config.json", "preprocessor_config.json", "README.md", *PLOTS}
    assert found["README.md"] == result.card.encode() == render_card(pushable, NAME).encode()
    assert result.golden_difference < 1e-3
    assert json.loads((pushable / "hub.json").read_text()) == {NAME: result.commit}
    assert HfApi(endpoint=hub.url, token=False).repo_exists(NAME) is False


ALONE = """
import json, sys
sys.modules["mura_hf"] = None  # any import of the package raises from here on
from PIL import Image
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

name, *files = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules")
with torch.inference_mode():
    logits = model(processor(Image.open(files[0]), return_tensors="pt")["pixel_values"]).logits
    study = model(processor([Image.open(file) for file in files], return_tensors="pt")["pixel_values"][None])
image = pipeline("image-classification", model=name, trust_remote_code=True, device="cpu")(files[0])
read = pipeline("mura-study-classification", model=name, trust_remote_code=True, device="cpu")
print(json.dumps({
    "logits": logits[0].tolist(),
    "study_logits": study.study_logits[0].tolist(),
    "image": {row["label"]: row["score"] for row in image},
    "study": {row["label"]: row["score"] for row in read([files])[0]},
}))
"""

PREDICTOR = """
import json, sys
from mura_hf import StudyPredictor, read_radiograph

name, *files = sys.argv[1:]
predictor = StudyPredictor.from_pretrained(name, device="cpu")
study = predictor(files, heatmaps=False)
logits = predictor.model(predictor.pixel_values([read_radiograph(file) for file in files])[None]).study_logits
print(json.dumps({"probability": study.probability, "study_logits": logits[0].tolist()}))
"""


def _elsewhere(forks, code, *arguments, url, home, cwd, offline=False):
    """Runs code in a process of its own, whose cache is `home` and whose Hub is at `url`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": str(int(offline)),
    }  # fmt: skip
    done = forks.run("-c", code, *arguments, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_loads_in_other_processes_from_an_empty_cache_then_offline_without_the_package(
    pushable, hub, api, forks, phantom_files, tmp_path
):
    push_here(pushable, api)
    processor, model = (
        MuraImageProcessor.from_pretrained(pushable),
        MuraForImageClassification.from_pretrained(pushable),
    )
    pixels = processor([Image.open(file) for file in phantom_files], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits, study = model(pixels[:1]).logits[0], model(pixels[None]).study_logits[0]
    expected = StudyPredictor.from_pretrained(pushable, device="cpu")(phantom_files, heatmaps=False).probability

    place = {"url": hub.url, "cwd": tmp_path}
    told = _elsewhere(forks, PREDICTOR, NAME, *phantom_files, home=tmp_path / "one", **place)
    found = json.loads(told.splitlines()[-1])
    assert found["probability"] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(found["study_logits"], study, atol=1e-5)

    online = _elsewhere(forks, ALONE, NAME, *phantom_files, home=tmp_path / "two", **place)
    asked = len(hub.requests)
    offline = _elsewhere(
        forks, ALONE, NAME, *phantom_files, home=tmp_path / "two", url="http://127.0.0.1:9", cwd=tmp_path, offline=True
    )
    assert len(hub.requests) == asked
    for told in (online, offline):
        found = json.loads(told.splitlines()[-1])
        np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
        np.testing.assert_allclose(found["study_logits"], study, atol=1e-5)
        assert found["image"]["abnormal"] == pytest.approx(float(logits.softmax(-1)[1]), abs=1e-5)
        assert found["study"]["abnormal"] == pytest.approx(expected, abs=1e-5)


def test_the_code_on_the_card_runs(pushable, hub, api, forks, phantom_files, tmp_path):
    card = push_here(pushable, api).card
    snippets = re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
    assert snippets
    assert any(NAME in snippet for snippet in snippets)
    place = tmp_path / "place"
    place.mkdir()
    for name in re.findall(r'"([\w./-]+\.png)"', "".join(snippets)):
        shutil.copyfile(phantom_files[0], place / name)
    for snippet in snippets:
        said = _elsewhere(forks, snippet, url=hub.url, home=tmp_path / "home", cwd=place)
        assert "normal" in said


def test_nothing_new_makes_no_commit_and_what_is_new_makes_one(pushable, hub, api):
    first = push_here(pushable, api)
    hub.requests.clear()
    again = push_here(pushable, api)
    assert (again.changed, again.commit, writes_of(hub)) == (False, first.commit, [])
    # Also where the folder has forgotten that it pushed.
    (pushable / "hub.json").unlink()
    assert push_here(pushable, api).commit == first.commit
    (pushable / "hub.json").write_text("{ torn")
    assert push_here(pushable, api).commit == first.commit

    training = json.loads((pushable / "training.json").read_text())
    (pushable / "training.json").write_text(json.dumps({**training, "seconds": 12345.0}))
    third = push_here(pushable, api)
    assert third.changed
    assert hub.head(REPO).parent == first.commit
    assert hub.files(REPO)["training.json"] == (pushable / "training.json").read_bytes()


def test_a_dry_run_asks_and_sends_nothing(pushable, hub, api):
    before = sorted(os.listdir(pushable))
    result = push_here(pushable, api, dry_run=True)
    assert hub.requests == []
    assert sorted(os.listdir(pushable)) == before
    assert (result.url, result.commit, result.changed, result.golden_difference) == (None, None, False, None)
    assert result.card == render_card(pushable, NAME)
    pushed = push_here(pushable, api)
    assert (pushed.files, pushed.card) == (result.files, result.card)


def test_a_branch_of_its_own(pushable, hub, api):
    first = push_here(pushable, api)
    training = json.loads((pushable / "training.json").read_text())
    (pushable / "training.json").write_text(json.dumps({**training, "seconds": 12345.0}))
    second = push_here(pushable, api, revision="next", commit_message="Longer")
    repo = hub.repos[REPO]
    assert repo.branches == {"main": first.commit, "next": second.commit}
    assert repo.commits[second.commit].title == "Longer"
    assert json.loads((pushable / "hub.json").read_text()) == {NAME: first.commit, f"{NAME}@next": second.commit}
    assert not push_here(pushable, api, revision="next").changed


def test_public_only_when_said_so(pushable, hub, api):
    push_here(pushable, api, private=False)
    assert not hub.repos[REPO].private
    with pytest.raises(HubError, match="is public on the Hub, and this push was to be private"):
        push_here(pushable, api)
    assert not push_here(pushable, api, private=False).changed


def test_an_exported_folder_can_be_pushed_too(pushable, hub, api, tmp_path):
    from mura_hf.hub import export_checkpoint

    own = push_here(pushable, api)
    exported = export_checkpoint(pushable, tmp_path / "exported")
    assert not (exported / "hub.json").exists()
    assert push_here(exported, api).commit == own.commit


def _command(forks, name, *arguments, url, home):
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
    }
    environment["HF_HUB_OFFLINE"] = "0"
    return forks.run(ROOT / "scripts" / name, *arguments, env=environment, cwd=ROOT)


def test_the_command_pushes_and_says_so(pushable, hub, forks, tmp_path):
    place = {"url": hub.url, "home": tmp_path / "home"}
    golden = (pushable / "golden.safetensors").read_bytes()
    (pushable / "golden.safetensors").unlink()
    refused = _command(forks, "push_to_hub.py", pushable, NAME, **place)
    assert refused.returncode == 1
    assert "Missing: golden.safetensors" in refused.stderr
    assert "Traceback" not in refused.stderr

    (pushable / "golden.safetensors").write_bytes(golden)
    done = _command(forks, "push_to_hub.py", pushable, NAME, "--public", "--message", "First", **place)
    assert done.returncode == 0, done.stderr[-2000:]
    repo = hub.repos[REPO]
    assert f"Pushed: {hub.url}/{NAME}/tree/{repo.branches['main']}" in done.stdout
    assert "Golden check after download: logits differ by" in done.stdout
    assert hub.head(REPO).title == "First"
    assert not repo.private


def test_the_commands_dry_runs_ask_nothing(pushable, hub, forks, tmp_path):
    place = {"url": hub.url, "home": tmp_path / "home"}
    model = _command(forks, "push_to_hub.py", pushable, NAME, "--dry_run", **place)
    assert "model.safetensors" in model.stdout, model.stderr[-2000:]
    assert render_card(pushable, NAME) in model.stdout
    app = _command(forks, "push_space.py", "tester/app", "--checkpoint", NAME, "--dry_run", **place)
    assert "nothing was sent" in app.stdout, app.stderr[-2000:]
    assert "mura_hf/__init__.py" in app.stdout
    assert hub.requests == []
