"""Runs what the documentation shows: Python snippets of all READMEs, and the commands for one's own images."""

import csv
import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from mura_hf import StudyPredictor, load_mura

ROOT = Path(__file__).parents[1]
READMES = [file for file in sorted(ROOT.rglob("README.md")) if not {".venv", "resources"} & set(file.parts)]


def code_blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("readme", READMES, ids=lambda file: str(file.parent.relative_to(ROOT)))
def test_python_snippets_run(readme, phantom_files, tmp_path, monkeypatch):
    # Snippets of the app's clients need a running app: tests/demo runs them.
    # The snippet for exported graphs needs one: tests/hub runs it.
    snippets = [
        block for block in code_blocks(readme, "python") if not re.search("gradio_client|onnxruntime.Inf", block)
    ]
    if not snippets:
        pytest.skip("no Python snippets")
    for name, file in zip(("wrist_frontal.png", "wrist_lateral.png", "film.png"), phantom_files * 2, strict=False):
        shutil.copy(file, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "snippet"}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"{readme.relative_to(ROOT)}, snippet {number}", "exec"), names)


def test_links_between_readmes_exist():
    for readme in READMES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", readme.read_text(encoding="utf-8")):
            assert (readme.parent / target).exists(), f"{readme.relative_to(ROOT)} links to {target}"


@pytest.fixture
def films(phantom_tree, tmp_path):
    """A folder of films with the metadata.csv that the README describes."""
    folder = tmp_path / "my_films"
    folder.mkdir()
    header, *_ = csv.reader(code_blocks(ROOT / "README.md", "csv")[0].splitlines())
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, header)
        table.writeheader()
        for rows in load_mura(phantom_tree).values():
            part_of = rows.features["body_part"].int2str
            for number, row in enumerate(rows.cast_column("image", rows.features["image"].__class__(decode=False))):
                name = f"{row['study_id'].replace('/', '-')}-{number}.png"
                os.link(row["image"]["path"], folder / name)
                label, part = ["normal", "abnormal"][row["label"]], part_of(row["body_part"])
                known = {column: row[column] for column in ("study_id", "patient_id")}
                table.writerow({"file_name": name, "label": label, "body_part": part, **known})
    return folder


@pytest.mark.slow
def test_commands_for_own_images(films, phantom_files, tmp_path, monkeypatch, capsys):
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    commands = next(block for block in code_blocks(ROOT / "README.md", "bash") if "--data_dir my_films" in block)
    ran = []
    for line in commands.strip().splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "python":
            # One epoch at a sixth of the image size keeps this test short.
            short = ["--epochs", "1", "--image_size", "64", "--cpu"] if "train.py" in arguments[0] else []
            monkeypatch.setattr(sys, "argv", [*arguments, *short])
            runpy.run_path(arguments[0], run_name="__main__")
            ran.append(Path(arguments[0]).stem)
        else:
            assert (program, len(arguments)) == ("cat", 1)
            card = ModelCard.load(arguments[0])
    assert ran == ["train", "push_to_hub"]
    assert "nothing was sent" in capsys.readouterr().out
    assert "mura-phantom" in card.text
    study = StudyPredictor.from_pretrained(tmp_path / "runs" / "my-films" / "checkpoint", device="cpu")(phantom_files)
    assert not any("synthetic" in warning for warning in study.warnings)  # it was trained on the films of the user
