"""Pushes to a Hub on loopback, through the unmodified client."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image

from mura_hf import CheckpointError, HubError, MuraForImageClassification, MuraImageProcessor, StudyPredictor
from mura_hf.errors import CardError
from mura_hf.evaluation import PLOTS
from mura_hf.hub import committing, push, render_card
from mura_hf.hub.export import model_code_names
from tests.hub.hub_server import READ_TOKEN, TOKEN
from tests.hub.hub_store import Blob

NAME, REPO = "tester/wrists", "models/tester/wrists"
ROOT = Path(__file__).parents[2]


def _push(folder, api, **options):
    options = {"wait": lambda seconds: None, "progress": False, **options}
    return push(folder, NAME, api=api, **options)


def _writes(hub):
    """Requests that may change what the Hub holds."""
    return [
        (method, path) for method, path in hub.requests if method not in ("GET", "HEAD") and "validate" not in path
    ]


def test_one_commit_holds_all_and_comes_back_the_same(pushable, hub, api):
    result = _push(pushable, api)
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
from mura_hf import StudyPredictor

name, *files = sys.argv[1:]
predictor = StudyPredictor.from_pretrained(name, device="cpu")
study = predictor(files, heatmaps=False)
logits = predictor.model(predictor.pixel_values([predictor._read(file, file) for file in files])[None]).study_logits
print(json.dumps({"probability": study.probability, "study_logits": logits[0].tolist()}))
"""


def _elsewhere(code, *arguments, url, home, cwd, offline=False):
    """Runs code in a process of its own, whose cache is `home` and whose Hub is at `url`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": str(int(offline)),
    }  # fmt: skip
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_loads_in_other_processes_from_an_empty_cache_then_offline_without_the_package(
    pushable, hub, api, phantom_files, tmp_path
):
    _push(pushable, api)
    processor, model = (
        MuraImageProcessor.from_pretrained(pushable),
        MuraForImageClassification.from_pretrained(pushable),
    )
    pixels = processor([Image.open(file) for file in phantom_files], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits, study = model(pixels[:1]).logits[0], model(pixels[None]).study_logits[0]
    expected = StudyPredictor.from_pretrained(pushable, device="cpu")(phantom_files, heatmaps=False).probability

    place = {"url": hub.url, "cwd": tmp_path}
    told = _elsewhere(PREDICTOR, NAME, *phantom_files, home=tmp_path / "one", **place)
    found = json.loads(told.splitlines()[-1])
    assert found["probability"] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(found["study_logits"], study, atol=1e-5)

    online = _elsewhere(ALONE, NAME, *phantom_files, home=tmp_path / "two", **place)
    asked = len(hub.requests)
    offline = _elsewhere(
        ALONE, NAME, *phantom_files, home=tmp_path / "two", url="http://127.0.0.1:9", cwd=tmp_path, offline=True
    )
    assert len(hub.requests) == asked
    for told in (online, offline):
        found = json.loads(told.splitlines()[-1])
        np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
        np.testing.assert_allclose(found["study_logits"], study, atol=1e-5)
        assert found["image"]["abnormal"] == pytest.approx(float(logits.softmax(-1)[1]), abs=1e-5)
        assert found["study"]["abnormal"] == pytest.approx(expected, abs=1e-5)


def test_the_code_on_the_card_runs(pushable, hub, api, phantom_files, tmp_path):
    card = _push(pushable, api).card
    snippets = re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
    assert snippets
    assert any(NAME in snippet for snippet in snippets)
    place = tmp_path / "place"
    place.mkdir()
    for name in re.findall(r'"([\w./-]+\.png)"', "".join(snippets)):
        shutil.copyfile(phantom_files[0], place / name)
    for snippet in snippets:
        said = _elsewhere(snippet, url=hub.url, home=tmp_path / "home", cwd=place)
        assert "normal" in said


def test_a_line_cut_in_an_upload_leaves_nothing_and_the_next_push_sends_the_rest(pushable, hub, api):
    waited = []
    hub.cut = lambda what, number: what == "put" and number > 1
    with pytest.raises(HubError, match=r"connection to the Hub was cut.*not sent again"):
        _push(pushable, api, waits=(2, 8), wait=waited.append)
    assert waited == [2, 8]
    repo = hub.repos[REPO]
    assert [commit.title for commit in repo.commits.values()] == ["initial commit"]
    assert not (pushable / "hub.json").exists()
    (arrived,) = hub.store

    hub.cut = lambda what, number: False
    hub.requests.clear()
    result = _push(pushable, api)
    sent = [path for method, path in hub.requests if method == "PUT"]
    assert len(sent) == len(hub.store) - 1 == 1 + len(PLOTS)
    assert not any(arrived in path for path in sent)
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "Push wrists"]
    assert result.golden_difference < 1e-3


def test_a_short_cut_heals_by_itself(pushable, hub, api):
    hub.cut = lambda what, number: number == 1
    result = _push(pushable, api)
    assert result.changed
    assert [commit.title for commit in hub.repos[REPO].commits.values()] == ["initial commit", "Push wrists"]
    assert hub.repos[REPO].branches["main"] == result.commit


def test_a_line_cut_in_the_commit_leaves_nothing(pushable, hub, api):
    hub.cut = lambda what, number: what == "commit"
    with pytest.raises(HubError, match="was cut"):
        _push(pushable, api)
    assert list(hub.files(REPO)) == [".gitattributes"]
    assert len(hub.store) == 2 + len(PLOTS)
    hub.cut = lambda what, number: False
    hub.requests.clear()
    assert _push(pushable, api).changed
    assert not [path for method, path in hub.requests if method == "PUT"]
    assert len(hub.repos[REPO].commits) == 2


def test_a_line_cut_after_the_commit_is_seen_to_be_done(pushable, hub, api):
    hub.cut = lambda what, number: what == "answer"
    result = _push(pushable, api)
    assert result.commit == hub.repos[REPO].branches["main"]
    assert json.loads((pushable / "hub.json").read_text()) == {NAME: result.commit}


def test_nothing_new_makes_no_commit_and_what_is_new_makes_one(pushable, hub, api):
    first = _push(pushable, api)
    hub.requests.clear()
    again = _push(pushable, api)
    assert (again.changed, again.commit, _writes(hub)) == (False, first.commit, [])
    # Also where the folder has forgotten that it pushed.
    (pushable / "hub.json").unlink()
    assert _push(pushable, api).commit == first.commit
    (pushable / "hub.json").write_text("{ torn")
    assert _push(pushable, api).commit == first.commit

    training = json.loads((pushable / "training.json").read_text())
    (pushable / "training.json").write_text(json.dumps({**training, "seconds": 12345.0}))
    third = _push(pushable, api)
    assert third.changed
    assert hub.head(REPO).parent == first.commit
    assert hub.files(REPO)["training.json"] == (pushable / "training.json").read_bytes()


def test_a_newer_remote_is_replaced_by_force_only(pushable, hub, api):
    first = _push(pushable, api)
    repo = hub.repos[REPO]
    theirs = repo.add({**hub.head(REPO).tree, "notes.md": Blob(b"mine\n", False)}, "Notes of somebody else")
    with pytest.raises(HubError, match=rf"{theirs}, which was not pushed from here; look at .*{theirs}.*--force"):
        _push(pushable, api)
    assert repo.branches["main"] == theirs
    result = _push(pushable, api, force=True)
    assert "notes.md" not in hub.files(REPO)
    assert hub.files(REPO)["README.md"] == result.card.encode()
    assert repo.commits[result.commit].parent == theirs
    assert repo.commits[theirs].parent == first.commit  # history stays


def test_a_folder_that_never_pushed_does_not_overwrite(pushable, whole, hub, api):
    _push(pushable, api)
    training = json.loads((pushable / "training.json").read_text())
    (pushable / "training.json").write_text(json.dumps({**training, "seconds": 12345.0}))
    (pushable / "hub.json").unlink()
    with pytest.raises(HubError, match="was not pushed from here"):
        _push(pushable, api)


def test_a_push_from_elsewhere_in_the_meantime_is_not_overwritten(pushable, hub, api):
    _push(pushable, api)
    repo = hub.repos[REPO]
    training = json.loads((pushable / "training.json").read_text())
    (pushable / "training.json").write_text(json.dumps({**training, "seconds": 12345.0}))
    hub.before_commit = lambda: repo.add({"theirs.md": Blob(b"!", False)}, "Meanwhile")
    with pytest.raises(
        HubError, match="somebody else pushed to tester/wrists while this was sent; nothing was written"
    ):
        _push(pushable, api)
    assert list(hub.files(REPO)) == ["theirs.md"]


def test_a_dry_run_asks_and_sends_nothing(pushable, hub, api):
    before = sorted(os.listdir(pushable))
    result = _push(pushable, api, dry_run=True)
    assert hub.requests == []
    assert sorted(os.listdir(pushable)) == before
    assert (result.url, result.commit, result.changed, result.golden_difference) == (None, None, False, None)
    assert result.card == render_card(pushable, NAME)
    pushed = _push(pushable, api)
    assert (pushed.files, pushed.card) == (result.files, result.card)


def test_a_branch_of_its_own(pushable, hub, api):
    first = _push(pushable, api)
    training = json.loads((pushable / "training.json").read_text())
    (pushable / "training.json").write_text(json.dumps({**training, "seconds": 12345.0}))
    second = _push(pushable, api, revision="next", commit_message="Longer")
    repo = hub.repos[REPO]
    assert repo.branches == {"main": first.commit, "next": second.commit}
    assert repo.commits[second.commit].title == "Longer"
    assert json.loads((pushable / "hub.json").read_text()) == {NAME: first.commit, f"{NAME}@next": second.commit}
    assert not _push(pushable, api, revision="next").changed


def test_public_only_when_said_so(pushable, hub, api):
    _push(pushable, api, private=False)
    assert not hub.repos[REPO].private
    with pytest.raises(HubError, match="is public on the Hub, and this push was to be private"):
        _push(pushable, api)
    assert not _push(pushable, api, private=False).changed


def test_what_comes_back_otherwise_is_told(pushable, hub, api):
    def spoil(what, number):
        if what == "answer":  # the commit was made
            for oid, content in hub.store.items():
                hub.store[oid] = content[:-1] + bytes([content[-1] ^ 1])
        return False

    hub.cut = spoil
    with pytest.raises(CheckpointError, match=r"body_parts\.png came back from tester/wrists \(commit \w+\)"):
        _push(pushable, api)


@pytest.mark.parametrize(
    ("token", "said"), [(False, "hf auth login"), (READ_TOKEN, "may not write to tester/wrists"), ("hf_no", "hf auth")]
)
def test_who_may_not_push_is_told_why(pushable, hub, token, said):
    with pytest.raises(HubError, match=said):
        _push(pushable, HfApi(endpoint=hub.url, token=token))
    assert not hub.repos


def test_no_network_is_told(pushable, hub, monkeypatch):
    with pytest.raises(HubError, match="connection to the Hub was cut"):
        _push(pushable, HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids"):
        _push(pushable, HfApi(endpoint=hub.url, token=TOKEN))
    assert hub.requests == []


def test_what_the_hub_does_not_take_is_told(pushable, hub, api):
    hub.card_errors = ['"license" must be one of its list']
    with pytest.raises(HubError, match=r'Invalid metadata in README\.md\. - "license" must be one of its list'):
        _push(pushable, api)
    assert not hub.store  # before anything large was sent
    hub.card_errors, hub.full = [], True
    with pytest.raises(HubError, match=r"may not write to tester/wrists \(.*storage is full"):
        _push(pushable, api)
    assert list(hub.files(REPO)) == [".gitattributes"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"hub\.json cannot be written .* will ask for --force"):
        committing._remember(tmp_path / "nowhere" / "hub.json", NAME, "0" * 40)


def test_names_that_are_none(pushable, hub, api):
    for name in ("wrists", "a/b/c", "tester/no name"):
        with pytest.raises((HubError, CardError), match="name"):
            push(pushable, name, api=api, progress=False)
    assert not hub.repos


def test_a_gate_that_does_not_open_stops_the_push(pushable, hub, api):
    evaluation = json.loads((pushable / "evaluation.json").read_text())
    del evaluation["study"]
    (pushable / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(CardError):
        _push(pushable, api)
    assert hub.requests == []


def test_an_exported_folder_can_be_pushed_too(pushable, hub, api, tmp_path):
    from mura_hf.hub import export_checkpoint

    own = _push(pushable, api)
    exported = export_checkpoint(pushable, tmp_path / "exported")
    assert not (exported / "hub.json").exists()
    assert _push(exported, api).commit == own.commit


def _command(name, *arguments, url, home):
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
    }
    environment["HF_HUB_OFFLINE"] = "0"
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_the_command_pushes_and_says_so(pushable, hub, tmp_path):
    place = {"url": hub.url, "home": tmp_path / "home"}
    golden = (pushable / "golden.safetensors").read_bytes()
    (pushable / "golden.safetensors").unlink()
    refused = _command("push_to_hub.py", pushable, NAME, **place)
    assert refused.returncode == 1
    assert "Missing: golden.safetensors" in refused.stderr
    assert "Traceback" not in refused.stderr

    (pushable / "golden.safetensors").write_bytes(golden)
    done = _command("push_to_hub.py", pushable, NAME, "--public", "--message", "First", **place)
    assert done.returncode == 0, done.stderr[-2000:]
    repo = hub.repos[REPO]
    assert f"Pushed: {hub.url}/{NAME}/tree/{repo.branches['main']}" in done.stdout
    assert "Golden check after download: logits differ by" in done.stdout
    assert hub.head(REPO).title == "First"
    assert not repo.private


def test_the_commands_dry_runs_ask_nothing(pushable, hub, tmp_path):
    place = {"url": hub.url, "home": tmp_path / "home"}
    model = _command("push_to_hub.py", pushable, NAME, "--dry_run", **place)
    assert "model.safetensors" in model.stdout, model.stderr[-2000:]
    assert render_card(pushable, NAME) in model.stdout
    app = _command("push_space.py", "tester/app", "--checkpoint", NAME, "--dry_run", **place)
    assert "nothing was sent" in app.stdout, app.stderr[-2000:]
    assert "mura_hf/__init__.py" in app.stdout
    assert hub.requests == []
