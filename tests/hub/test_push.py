"""Pushes of whole checkpoints to a Hub on loopback, and what others load from there."""

import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from mura_hf import CardError, CheckpointError, MuraForImageClassification, MuraImageProcessor
from mura_hf.hub import export_checkpoint, render_card
from mura_hf.hub.export import model_code_names
from mura_hf.metrics import PLOTS
from tests.hub.conftest import ALONE, NAME, REPO, change_record, check_alone, hub_environment, push_here

ROOT = Path(__file__).parents[2]


def test_one_commit_holds_everything_and_comes_back_the_same(pushable, hub, api, tmp_path):
    result = push_here(pushable, api)
    repo, found = hub.repos[REPO], hub.files(REPO)
    assert len(repo.commits) == 2  # the Hub's own, and ours
    assert (result.changed, result.commit) == (True, repo.branches["main"])
    assert hub.head(REPO).title == "Push wrists"
    assert repo.private
    assert found.pop(".gitattributes")
    assert result.files == sorted((name, len(content)) for name, content in found.items())
    code = {name for name in found if name.endswith(".py")}
    assert "modeling_mura.py" in code <= model_code_names()
    for name in ("model.safetensors", "golden.safetensors", "evaluation.json", "training.json"):
        assert found.pop(name) == (pushable / name).read_bytes()
    assert set(found) - code == {"config.json", "preprocessor_config.json", "README.md", *PLOTS}
    assert found["README.md"] == result.card.encode() == render_card(pushable, NAME).encode()
    assert result.golden_difference < 1e-3
    assert json.loads((pushable / "hub.json").read_text()) == {NAME: result.commit}
    assert HfApi(endpoint=hub.url, token=False).repo_exists(NAME) is False

    exported = export_checkpoint(pushable, tmp_path / "exported")  # can be pushed too
    assert not (exported / "hub.json").exists()
    again = push_here(exported, api)
    assert (again.commit, again.changed) == (result.commit, False)


@pytest.mark.slow
def test_loads_elsewhere_from_an_empty_cache_then_offline_without_the_package(
    pushable, hub, api, forks, phantom_files, tmp_path
):
    def run(code, *arguments, url=hub.url, home="home", cwd=tmp_path, **more):
        done = forks.run("-c", code, *arguments, env=hub_environment(url, tmp_path / home, **more), cwd=cwd)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    card = push_here(pushable, api).card
    model = MuraForImageClassification.from_pretrained(pushable)
    processor = MuraImageProcessor.from_pretrained(pushable)
    online = run(ALONE, NAME, *phantom_files, home="alone", HF_HUB_OFFLINE="0")
    asked = len(hub.requests)
    offline = run(ALONE, NAME, *phantom_files, home="alone", url="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert len(hub.requests) == asked
    for output in (online, offline):
        check_alone(json.loads(output.splitlines()[-1])[NAME], model, processor, phantom_files)

    # The snippets on the card, with the package.
    snippets = re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
    assert any(NAME in snippet for snippet in snippets)
    place = tmp_path / "place"
    place.mkdir()
    for name in re.findall(r'"([\w./-]+\.png)"', "".join(snippets)):
        shutil.copyfile(phantom_files[0], place / name)
    shown = run("\n".join(snippets), home="package", cwd=place, HF_HUB_OFFLINE="0").splitlines()
    assert len([line for line in shown if re.search(r"normal|low|uncertain|suspected", line)]) == len(snippets)


def test_a_download_that_differs_is_an_error(pushable, hub, api):
    def spoil(what, number):
        if what == "answer":  # the commit was made
            for oid, content in hub.store.items():
                hub.store[oid] = content[:-1] + bytes([content[-1] ^ 1])
        return False

    hub.cut = spoil
    message = r"body_parts\.png in tester/wrists \(commit \w+\) differs from the file"
    with pytest.raises(CheckpointError, match=message):
        push_here(pushable, api)


def test_an_incomplete_card_stops_the_push_before_any_request(pushable, hub, api):
    change_record(pushable / "evaluation.json", "study", "overall", "confusion")
    with pytest.raises(CardError, match=r'the block "Results" of the card of .* lacks a value'):
        push_here(pushable, api)
    assert hub.requests == []


def test_the_commands(pushable, hub, api, capsys, monkeypatch):
    def command(name, *arguments):
        runpy.run_path(str(ROOT / "scripts" / name))["main"](list(map(str, arguments)))
        return capsys.readouterr().out

    monkeypatch.setattr(sys.modules["mura_hf.hub.push"], "HfApi", lambda token: api)
    before = sorted(os.listdir(pushable))
    dry = command("push_to_hub.py", pushable, NAME, "--dry_run")
    assert "model.safetensors" in dry
    assert render_card(pushable, NAME) in dry
    app = command("push_space.py", "tester/app", "--checkpoint", NAME, "--dry_run")
    assert "nothing was sent" in app
    assert "mura_hf/__init__.py" in app
    assert (hub.requests, sorted(os.listdir(pushable))) == ([], before)

    done = command("push_to_hub.py", pushable, NAME, "--public", "--message", "First")
    repo = hub.repos[REPO]
    assert f"Pushed: {hub.url}/{NAME}/tree/{repo.branches['main']}" in done
    assert "Golden check after download: logits differ by" in done
    assert (hub.head(REPO).title, repo.private) == ("First", False)
    (pushable / "golden.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"Missing: golden\.safetensors"):
        command("push_to_hub.py", pushable, NAME)
