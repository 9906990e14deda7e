"""The app as a Space: what is pushed starts by itself."""

import os
import re
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

from mura_hf import HubError
from mura_hf.hub import push, push_space, space, stage_space
from mura_hf.metrics import PLOTS
from tests.hub.hub_server import TOKEN
from tests.hub.hub_store import Blob

NAME, REPO = "tester/read-a-study", "spaces/tester/read-a-study"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_HOME", str(tmp_path / "home"))


def _push(api, **options):
    return push_space(NAME, api=api, wait=lambda seconds: None, **options)


def _front(readme):
    return yaml.safe_load(readme.split("---\n")[1])


def test_front_matter_and_requirements_come_from_the_project(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = stage_space(tmp_path / "space", title="Read a study", checkpoint="tester/wrists")
    front = _front((folder / "README.md").read_text())
    assert (front["sdk"], front["sdk_version"], front["app_file"]) == ("gradio", gradio.__version__, "app.py")
    assert (front["title"], front["models"]) == ("Read a study", ["tester/wrists"])
    assert f">={front['python_version']}" == project["requires-python"]
    assert " AND ".join(front["license"]) == project["license"].lower().replace(" and ", " AND ")
    assert len(front["short_description"]) <= 60  # the Hub takes no more
    assert "Not a medical device" in (folder / "README.md").read_text()
    required = [Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
    asked = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    assert {str(one) for one in required} == {str(Requirement(line)) for line in asked}
    (demo,) = (one for one in required if one.name == "gradio")
    assert front["sdk_version"] in demo.specifier


def test_it_holds_the_package_and_nothing_else(tmp_path):
    folder = stage_space(tmp_path / "space", title="x")
    tops = {path.name for path in folder.iterdir()}
    assert tops == {"LICENSE", "README.md", "app.py", "mura_hf", "requirements.txt"}
    kept = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.parts[-2] != folder.name}
    tracked = subprocess.run(["git", "ls-files", "mura_hf"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:
        unknown = subprocess.run(
            ["git", "ls-files", "--others", "--exclude-standard", "mura_hf"], cwd=ROOT, capture_output=True, text=True
        )
        expected = (tracked.stdout + unknown.stdout).split()
        assert set(map(str, kept)) == {file for file in expected if not file.endswith(PLOTS)}
    assert (folder / "app.py").read_text() == (ROOT / "app.py").read_text()


@pytest.mark.parametrize("name", ["film.png", "codes.npy", "resources/index.bin", "models/other.safetensors", ".env"])
def test_files_that_have_no_place_are_named(tmp_path, monkeypatch, name):
    monkeypatch.setattr(space, "_PACKAGE", tmp_path / "checkout" / "mura_hf")
    for file in ("pyproject.toml", "app.py", "LICENSE"):
        (tmp_path / "checkout").mkdir(exist_ok=True)
        (tmp_path / "checkout" / file).write_text((ROOT / file).read_text())
    stray = tmp_path / "checkout" / "mura_hf" / name
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x")
    with pytest.raises(HubError, match=re.escape(str(stray))):
        stage_space(tmp_path / "space", title="x")


def test_an_installed_wheel_is_told_to_take_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "_PACKAGE", tmp_path / "mura_hf")
    with pytest.raises(HubError, match=r"lacks pyproject\.toml, app\.py, LICENSE: .* from a checkout"):
        stage_space(tmp_path / "space", title="x")


@pytest.mark.parametrize("name", ["wrists", "../wrists", 'a/b"; import os; "', "/root/x"])
def test_a_checkpoint_is_one_of_the_hub(tmp_path, name):
    with pytest.raises(HubError, match="no Hub name"):
        stage_space(tmp_path / "space", title="x", checkpoint=name)


@pytest.fixture(scope="module")
def down(tmp_path_factory):
    """Where Spaces are downloaded to; what the second one has in common with the first stays compiled."""
    return tmp_path_factory.mktemp("down") / "app"


def _serves(folder, cwd, **environment):
    """Starts `python app.py` by the folder's own files, and gives the page and what the app is made of."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRADIO_", "MURA_"))}
    clean.pop("PYTHONPATH", None)
    clean |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    clean |= {"HF_HOME": str(cwd / "cache"), "MURA_HOME": str(cwd / "home"), **environment}
    where = [sys.executable, "-c", "from importlib.util import find_spec; print(find_spec('mura_hf').origin)"]
    found = subprocess.run(where, cwd=folder, env=clean, capture_output=True, text=True, check=True).stdout.strip()
    app = subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env=clean, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said = []
        for line in app.stdout:  # ends with the process
            said.append(line)
            if "Running on local URL" in line:
                break
        else:
            raise AssertionError("".join(said)[-3000:])
        with urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            assert page.status == 200
            text = page.read().decode()
        with urlopen(f"http://127.0.0.1:{port}/config", timeout=60) as config:
            return found, text + config.read().decode()
    finally:
        app.terminate()
        app.wait()
        app.stdout.close()


def test_what_was_pushed_starts_by_its_own_files(hub, api, down, tmp_path):
    result = _push(api)
    assert result.changed
    assert hub.repos[REPO].private
    assert len(hub.repos[REPO].commits) == 2
    folder = Path(api.snapshot_download(NAME, repo_type="space", local_dir=down))
    found, page = _serves(folder, tmp_path, HF_HUB_OFFLINE="1")
    assert Path(found).is_relative_to(folder)
    assert "Not a medical device" in page
    assert "bundled: mura-film" in page
    assert not _push(api).changed


def test_it_starts_with_the_checkpoint_that_was_named(hub, api, pushable, down, tmp_path):
    push(pushable, "tester/wrists", api=api, progress=False)
    _push(api, checkpoint="tester/wrists")
    folder = Path(api.snapshot_download(NAME, repo_type="space", local_dir=down))
    _, page = _serves(folder, tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1")
    assert "In use: tester/wrists (" in page


def test_a_dry_run_asks_and_sends_nothing(hub, api):
    result = _push(api, dry_run=True)
    assert hub.requests == []
    assert result.commit is None
    pushed = _push(api)
    assert (pushed.files, pushed.readme) == (result.files, result.readme)


def test_a_newer_space_is_replaced_by_force_only(hub, api):
    _push(api)
    repo = hub.repos[REPO]
    theirs = repo.add({**hub.head(REPO).tree, "theirs.py": Blob(b"x = 1\n", False)}, "Of somebody else")
    with pytest.raises(HubError, match=f"{theirs}, which was not pushed from here"):
        _push(api)
    assert "theirs.py" in hub.files(REPO)
    assert _push(api, force=True).changed
    assert "theirs.py" not in hub.files(REPO)
    # And a cut in between leaves all as it was.
    before = repo.branches["main"]
    hub.cut = lambda what, number: what == "commit"
    with pytest.raises(HubError, match="was cut"):
        _push(api, checkpoint="tester/wrists")
    assert repo.branches["main"] == before
