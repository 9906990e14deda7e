"""The road from one's own images to a checkpoint that can be shared, as the README has it."""

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
SECTION = "## From your own images to a shareable checkpoint"


def _section():
    return (ROOT / "README.md").read_text().partition(SECTION)[2].partition("\n## ")[0]


def _block(language):
    return re.search(rf"```{language}\n(.*?)```", _section(), re.DOTALL).group(1).strip().splitlines()


@pytest.fixture
def films(phantom_tree, tmp_path):
    """Somebody's folder of films, with the columns that the README names."""
    datasets = load_mura(phantom_tree)
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, _block("csv")[0].split(","))
        table.writeheader()
        for rows in datasets.values():
            parts = rows.features["body_part"]
            for number, row in enumerate(rows.cast_column("image", rows.features["image"].__class__(decode=False))):
                name = f"{row['study_id'].replace('/', '-')}-{number}.png"
                os.link(row["image"]["path"], tmp_path / name)
                known = {"file_name": name, "label": ["normal", "abnormal"][row["label"]]}
                table.writerow(
                    known
                    | {column: row[column] for column in ("study_id", "patient_id")}
                    | {"body_part": parts.int2str(row["body_part"])}
                )
    return tmp_path


def test_the_table_of_the_readme_is_one_that_is_read():
    header, *lines = csv.reader(_block("csv"))
    assert header == ["file_name", "label", "study_id", "patient_id", "body_part"]
    assert all(len(line) == len(header) for line in lines)


def test_its_commands_lead_to_a_checkpoint_to_share(films, phantom_files, tmp_path_factory, monkeypatch, capsys):
    here = tmp_path_factory.mktemp("here")
    (here / "scripts").symlink_to(ROOT / "scripts")
    shutil.copytree(films, here / "my_films", copy_function=os.link)
    monkeypatch.chdir(here)
    ran = []
    for line in _block("bash"):
        program, *arguments = shlex.split(line, comments=True)
        if program == "python":
            # Cut short: one epoch, of pictures of a sixth of the size.
            short = ["--epochs", "1", "--set", "image_size=64", "--cpu"] if "train.py" in arguments[0] else []
            monkeypatch.setattr(sys, "argv", [*arguments, *short])
            runpy.run_path(arguments[0], run_name="__main__")
            ran.append(Path(arguments[0]).stem)
        else:
            assert (program, len(arguments)) == ("cat", 1)
            card = ModelCard.load(arguments[0])
    assert ran == ["train", "push_to_hub"]
    told = capsys.readouterr().out
    assert re.search(r"Calibrated on \d+ studies of calib", told)
    assert "Card written" in told
    assert "Would be pushed to your-name/my-films; nothing was sent" in told
    assert "Started from the checkpoint `mura-phantom`" in card.text
    assert "what its owners and patients allow" in card.text
    study = StudyPredictor.from_pretrained(here / "runs" / "my-films" / "checkpoint", device="cpu")(phantom_files)
    assert not any("synthetic" in warning for warning in study.warnings)  # the films were somebody's own
