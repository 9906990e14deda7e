"""Every command, one after another, as a user would run them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torchvision.models import resnet18

from mura_hf import StudyPredictor
from mura_hf.training import load_recipe

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.fixture
def run(forks):
    def run(name, *options):
        done = forks.run(ROOT / "scripts" / name, *options, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_command_has_help(script, run):
    assert "usage" in run(script.name, "--help").stdout


def test_from_phantoms_to_an_exported_checkpoint_with_its_card(run, tmp_path, phantom_files):
    made = run(
        "make_phantoms.py", "--output_dir", tmp_path / "data", "--n_studies", 80, "--size", 96, "--seed", 5, "--twins",
        "--workers", 1,
    )  # fmt: skip
    assert "Rendering phantoms" in made.stderr
    recipe = {
        **load_recipe("phantom").to_dict(),
        "image_size": 64,
        "epochs": 1,
        "batch_size": 16,
        "dev_fraction": 0.25,
        "calib_fraction": 0.25,
        "patches": {"epochs": 3, "size": 48},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    trained = run(
        "train.py", "--recipe", tmp_path / "tiny.yaml", "--data_dir", tmp_path / "data", "--output_dir",
        tmp_path / "run", "--cpu", "--patch_epochs", 1, "--cache_dir", tmp_path / "cache",
    )  # fmt: skip
    assert "AUROC" in trained.stdout + trained.stderr
    checkpoint = tmp_path / "run" / "checkpoint"
    assert "temperature" in run("calibrate.py", checkpoint, "--data_dir", tmp_path / "data", "--cpu").stdout
    built = run("build_index.py", checkpoint, "--data_dir", tmp_path / "data", "--thumbnails", 32, "--half", "--cpu")
    assert "codes of" in built.stdout
    measured = run("evaluate.py", checkpoint, "--data_dir", tmp_path / "data", "--twins", 7, "--cpu")
    overall = json.loads((checkpoint / "evaluation.json").read_text())["study"]["overall"]["figures"]
    assert f"{overall['n']:5d} studies" in measured.stdout
    assert "trained on synthetic phantoms" in measured.stdout
    run("render_card.py", checkpoint, "--name", "mura-tiny", "--output", checkpoint / "README.md")
    card = (checkpoint / "README.md").read_text()
    assert "comes with it: `predictor.similar(study)`" in card
    for words in (
        "# mura-tiny",
        "pointing game",
        "any finding | 7",
        "calibrate.py",
        "--recipe phantom --set",
        "image_size=64",
        "patches.epochs=1",
        "--twins 7",
    ):
        assert words in card
    run("export_checkpoint.py", checkpoint, tmp_path / "export")
    study = StudyPredictor.from_pretrained(tmp_path / "export")(phantom_files)
    assert any("synthetic phantoms" in warning for warning in study.warnings)


def test_convert_checkpoint(run, tmp_path, phantom_files):
    torch.manual_seed(0)
    torch.save({"state_dict": resnet18(num_classes=1).state_dict(), "epoch": 3}, tmp_path / "weights.pth")
    done = run(
        "convert_checkpoint.py", tmp_path / "weights.pth", "--architecture", "resnet18", "--single_logit",
        "--image_size", 64, "--report", tmp_path / "report.json", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert "epoch -> left out" in done.stdout
    assert "122 weights, 1 left out" in done.stdout
    assert "neither evaluated nor given a card" in done.stdout
    assert len(json.loads((tmp_path / "report.json").read_text())["keys"]) == 123
    assert 0 < StudyPredictor.from_pretrained(tmp_path / "out")(phantom_files).probability < 1


def test_contact_sheet(run, tmp_path):
    run("contact_sheet.py", "--output", tmp_path / "sheet.png", "--side", 48)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (6 * 48, 7 * 48)


def test_show_preprocessing(run, tmp_path, phantom_files):
    run("show_preprocessing.py", phantom_files[0], "--output", tmp_path / "given.png", "--size", 48)
    run("show_preprocessing.py", "--output", tmp_path / "phantoms.png", "--size", 48)
    with Image.open(tmp_path / "given.png") as given, Image.open(tmp_path / "phantoms.png") as phantoms:
        assert phantoms.height > 2 * given.height  # three rows


def test_boxes_of_a_dataset(run, tmp_path, phantom_tree):
    run("show_boxes.py", phantom_tree, "--output", tmp_path / "boxes.png", "--columns", 2, "--lines", 2, "--side", 64)
    with Image.open(tmp_path / "boxes.png") as sheet:
        assert sheet.width == 128


def test_trouble_is_a_sentence_and_no_traceback(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "train.py", "--recipe", "phantom", "--data_dir", tmp_path]
    done = subprocess.run([*command, "--output_dir", tmp_path / "run"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "holds no train_labeled_studies.csv" in done.stderr
    assert "Traceback" not in done.stderr
