"""The demo as a Space: what is pushed starts from its own files."""

import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.request import urlopen

import gradio
import pytest
import yaml
from packaging.requirements import Requirement

from mura_hf import CheckpointError, HubError, StudyPredictor
from mura_hf.hub import push, push_space, space, stage_space
from mura_hf.metrics import PLOTS
from tests.hub.conftest import hub_environment
from tests.hub.hub_server import Blob

NAME, REPO = "tester/read-a-study", "spaces/tester/read-a-study"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_record(tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_HOME", str(tmp_path / "home"))


def test_front_matter_and_requirements_come_from_the_project(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = stage_space(tmp_path / "space", title="Read a study", checkpoint="tester/wrists")
    readme = (folder / "README.md").read_text()
    front = yaml.safe_load(readme.split("---\n")[1])
    assert (front["sdk"], front["sdk_version"], front["app_file"]) == ("gradio", gradio.__version__, "app.py")
    assert (front["title"], front["models"]) == ("Read a study", ["tester/wrists"])
    assert f">={front['python_version']}" == project["requires-python"]
    assert " AND ".join(front["license"]) == project["license"].lower().replace(" and ", " AND ")
    assert len(front["short_description"]) <= 60  # the Hub's limit
    assert "Not a medical device" in readme
    required = [Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
    asked = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    assert {str(one) for one in required} == {str(Requirement(line)) for line in asked}
    (demo,) = (one for one in required if one.name == "gradio")
    assert front["sdk_version"] in demo.specifier


def test_it_holds_the_package_and_nothing_else(tmp_path):
    folder = stage_space(tmp_path / "space", title="x")
    assert sorted(os.listdir(folder)) == ["LICENSE", "README.md", "app.py", "mura_hf", "requirements.txt"]
    kept = {str(path.relative_to(folder)) for path in (folder / "mura_hf").rglob("*") if path.is_file()}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "mura_hf"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        files = {file for file in listed.stdout.split() if (ROOT / file).is_file()}
        left_out = (*PLOTS, "mistakes.png", ".webp")  # for cards and evaluations only
        assert kept == {file for file in files if not file.endswith(left_out)}
    assert (folder / "app.py").read_text() == (ROOT / "app.py").read_text()


def test_files_that_do_not_belong_are_named(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "mura_hf"
    monkeypatch.setattr(space, "_PACKAGE", package)
    package.mkdir(parents=True)
    with pytest.raises(HubError, match=r"lacks pyproject\.toml, app\.py, LICENSE: .* from a checkout"):
        stage_space(tmp_path / "space", title="x")
    for file in ("pyproject.toml", "app.py", "LICENSE"):
        (package.parent / file).write_text((ROOT / file).read_text())
    for name in ("film.png", "codes.npy", "resources/index.bin", "models/other.safetensors", ".env"):
        stray = package / name
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"x")
        with pytest.raises(HubError, match=re.escape(str(stray))):
            stage_space(tmp_path / "space", title="x")
        stray.unlink()


@pytest.mark.parametrize("name", ["wrists", "../wrists", 'a/b"; import os; "', "/root/x"])
def test_the_checkpoint_is_a_hub_name(tmp_path, name):
    with pytest.raises(HubError, match="neither the folder of a checkpoint nor a Hub name"):
        stage_space(tmp_path / "space", title="x", checkpoint=name)


def test_a_folder_becomes_part_of_the_space(pushable, tmp_path, capsys):
    from push_space import main

    out = tmp_path / "my space"
    main(["--checkpoint", str(pushable), "--output_dir", str(out)])
    assert f"cd '{out}' && python app.py" in capsys.readouterr().out
    assert {"config.json", "model.safetensors", "README.md"} <= set(os.listdir(out / "checkpoint"))
    readme = (out / "README.md").read_text()
    assert "title: my space" in readme
    assert "checkpoint in `checkpoint/`, whose card and licence" in readme
    for folder in (out, out / "checkpoint"):
        assert not [file for file in folder.rglob("*.json") if str(tmp_path) in file.read_text()]
    with pytest.raises(HubError, match="is not empty"):
        main(["--output_dir", str(out)])
    with pytest.raises(SystemExit):
        main(["--checkpoint", str(pushable)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "film.png").write_bytes(b"x"), r"film\.png does not belong"),
        (lambda folder: (folder / "evaluation.json").unlink(), "evaluation.json: run scripts/evaluate.py"),
        (lambda folder: (folder / "training.json").write_text('{"a": "patient00001"}'), "names a patient"),
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "is incomplete"),
    ],
)
def test_a_folder_is_checked_as_for_a_push(pushable, tmp_path, damage, message):
    damage(pushable)
    with pytest.raises(CheckpointError, match=message):
        stage_space(tmp_path / "space", title="x", checkpoint=str(pushable))


def serve(folder, home, environment):
    """Starts `python app.py` in a folder; returns where it imports mura_hf from, and the page with its config."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {name: value for name, value in environment.items() if not name.startswith(("GRADIO_", "MURA_"))}
    clean.pop("PYTHONPATH", None)
    clean |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    clean |= {"MURA_HOME": str(home), "MURA_RUNTIME": "torch"}  # nothing is compiled
    where = [sys.executable, "-c", "from importlib.util import find_spec; print(find_spec('mura_hf').origin)"]
    origin = subprocess.run(where, cwd=folder, env=clean, capture_output=True, text=True, check=True).stdout.strip()
    app = subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env=clean, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output = []
        for line in app.stdout:  # ends with the process
            output.append(line)
            if "Running on local URL" in line:
                break
        else:
            raise AssertionError("".join(output)[-3000:])
        pages = []
        for path in ("", "config"):
            with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as page:
                assert page.status == 200
                pages.append(page.read().decode())
        return origin, "".join(pages)
    finally:
        app.terminate()
        app.wait()
        app.stdout.close()


@pytest.mark.slow
def test_what_was_pushed_starts_from_its_own_files_with_the_named_checkpoint(hub, api, pushable, tmp_path):
    push(pushable, "tester/wrists", api=api)
    result = push_space(NAME, checkpoint="tester/wrists", api=api)
    assert result.changed
    assert hub.repos[REPO].private
    assert len(hub.repos[REPO].commits) == 2
    folder = Path(api.snapshot_download(NAME, repo_type="space", local_dir=tmp_path / "app"))
    origin, page = serve(folder, tmp_path / "home", hub_environment(hub.url, tmp_path / "cache"))
    assert Path(origin).is_relative_to(folder)
    assert "Not a medical device" in page
    assert "Model in use: tester/wrists (" in page


def test_a_written_space_starts_with_its_checkpoint(pushable, tmp_path, monkeypatch):
    folder, started = stage_space(tmp_path / "space", title="x", checkpoint=str(pushable)), []
    shutil.rmtree(pushable)
    monkeypatch.setenv("MURA_CHECKPOINT", "")
    monkeypatch.delenv("MURA_CHECKPOINT")
    monkeypatch.setattr("mura_hf.demo.launch", lambda: started.append(os.environ["MURA_CHECKPOINT"]))
    runpy.run_path(str(folder / "app.py"), run_name="__main__")
    assert started == [str(folder / "checkpoint")]
    assert StudyPredictor.from_pretrained(started[0], device="cpu").checkpoint == "folder: checkpoint"


def test_dry_run_and_force(hub, api):
    dry = push_space(NAME, api=api, dry_run=True)
    assert (hub.requests, dry.commit) == ([], None)
    pushed = push_space(NAME, api=api)
    assert (pushed.files, pushed.card) == (dry.files, dry.card)
    assert (Path(os.environ["MURA_HOME"]) / "spaces.json").is_file()
    theirs = hub.repos[REPO].add({**hub.head(REPO).tree, "theirs.py": Blob(b"x = 1\n", False)}, "Of somebody else")
    with pytest.raises(HubError, match=f"{theirs}, which was not pushed from here"):
        push_space(NAME, api=api)
    assert push_space(NAME, api=api, force=True).changed
    assert "theirs.py" not in hub.files(REPO)
