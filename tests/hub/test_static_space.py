import json
import runpy
import shutil
from pathlib import Path

import pytest

from mura_hf import CheckpointError, HubError
from mura_hf.hub import stage_static_space, static_space
from mura_hf.models.golden_mura import digest_weights


def test_what_cannot_become_a_page_is_refused_before_it_is_built(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(static_space, "_build", lambda folder: pytest.fail("it was built"))
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "wrist.onnx").write_bytes(b"graph")
    study = {"weights_sha256": digest_weights(folder), "graphs": {"wrist": {}}, "checkpoint": "folder: checkpoint"}
    (folder / "onnx" / "study.json").write_text(json.dumps(study))
    with pytest.raises(CheckpointError, match="a graph for each body part"):
        stage_static_space(tmp_path / "page", title="page", checkpoint=str(folder))
    with pytest.raises(HubError, match="is not empty"):
        stage_static_space(folder, title="page", checkpoint=str(folder))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(HubError, match=r"npm and node not found.*nodejs\.org"):
        stage_static_space(tmp_path / "other", title="page", checkpoint=str(folder))


def test_commands_that_fail_say_why(tmp_path):
    with pytest.raises(HubError, match="no such module"):
        static_space._run(tmp_path, "sh", "-c", "echo 'no such module' >&2; exit 1")


def test_command_pushes_or_stages_a_static_space(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        "mura_hf.hub.stage_static_space", lambda folder, **given: calls.append((folder, given)) or folder
    )
    runpy.run_path("scripts/push_space.py")["main"](["me/x", "--static", "--output_dir", str(tmp_path / "page")])
    assert calls == [(str(tmp_path / "page"), {"title": "x", "checkpoint": None})]
    assert "python -m http.server --bind 127.0.0.1" in capsys.readouterr().out

    def stage(folder, **given):
        (Path(folder) / "README.md").write_text("# page\n")
        calls.append(given)
        return Path(folder)

    monkeypatch.setattr("mura_hf.hub.space.stage_static_space", stage)
    runpy.run_path("scripts/push_space.py")["main"](["me/y", "--static", "--dry_run"])
    assert calls[1:] == [{"title": "y", "checkpoint": None}]
    assert "# page" in capsys.readouterr().out
