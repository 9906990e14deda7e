"""Runs the commands, one after another, as a user does."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from contact_sheet import main as contact_sheet
from PIL import Image
from show_boxes import draw_boxes
from show_preprocessing import draw_preprocessing
from show_preprocessing import main as show_preprocessing
from torchvision.models import resnet18

from mura_hf import DatasetError, StudyPredictor, load_mura
from mura_hf.training import load_config

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a script in this process."""

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        capsys.readouterr()
        code = None
        try:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        shown = capsys.readouterr()
        return SimpleNamespace(code=code or 0, stdout=shown.out, stderr=shown.err)

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_command_has_help(script, run):
    assert "usage" in run(script.name, "--help").stdout


def test_make_phantoms(run, tmp_path):
    made = run(
        "make_phantoms.py", "--output_dir", tmp_path, "--n_studies", 6, "--size", 48, "--seed", 5, "--twins",
        "--workers", 1,
    )  # fmt: skip
    assert "Rendering phantoms" in made.stderr
    assert len(set((tmp_path / "MURA-v1.1").glob("*/*/*/study*"))) >= 6


def test_from_training_to_an_exported_checkpoint_with_its_card(run, tmp_path, phantom_tree, phantom_files):
    stages = [{"epochs": 3, "patch_size": 48, "batch_size": 64}, {"epochs": 1}]
    config = load_config("phantom").replace(
        image_size=64, batch_size=16, dev_fraction=0.25, calib_fraction=0.25, stages=stages
    )
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config.to_dict()))
    data = ("--data_dir", phantom_tree, "--cpu")
    trained = run(
        "train.py", "--config", tmp_path / "tiny.yaml", *data, "--output_dir", tmp_path / "run", "--patch_epochs", 1,
        "--cache_dir", tmp_path / "cache",
    )  # fmt: skip
    assert "AUROC" in trained.stdout + trained.stderr
    checkpoint = tmp_path / "run" / "checkpoint"
    assert "Not calibrated on calib: too few" in run("calibrate.py", checkpoint, *data).stdout
    assert "codes of" in run("build_index.py", checkpoint, *data, "--thumbnails", 32, "--half").stdout
    measured = run("evaluate.py", checkpoint, *data)
    overall = json.loads((checkpoint / "evaluation.json").read_text())["study"]["overall"]["figures"]
    assert f"{overall['n']:5d} studies" in measured.stdout
    assert "trained on synthetic phantoms" in measured.stdout
    audit = ("--counterfactuals", 2, "--output_dir", tmp_path / "audit", "--add_to_evaluation", "--cpu")
    assert "Cast alone changes" in run("audit_shortcuts.py", checkpoint, *audit).stdout
    run("show_boxes.py", phantom_tree, "--checkpoint", checkpoint, "--columns", 2, "--side", 100, "--cpu")
    assert np.asarray(Image.open(checkpoint / "mistakes.png")).shape == (2 * 118, 200, 3)
    run("render_card.py", checkpoint, "--name", "mura-tiny", "--output", checkpoint / "README.md")
    card = (checkpoint / "README.md").read_text()
    for words in ("# mura-tiny", "pointing game", "any finding | 2", "are not calibrated: too few",
                  "--config tiny.yaml --patch_epochs 1 --data_dir", "--counterfactuals 2", "predictor.similar(study)",
                  "](mistakes.png)"):  # fmt: skip
        assert words in card
    run("export_checkpoint.py", checkpoint, tmp_path / "export")
    study = StudyPredictor.from_pretrained(tmp_path / "export")(phantom_files)
    assert any("synthetic phantoms" in warning for warning in study.warnings)
    plain = run("export_timm.py", checkpoint, "--data_dir", phantom_tree, "--studies", 8)
    assert "padded with black: AUROC" in plain.stdout
    assert "on 8 held-out studies" in (checkpoint / "timm" / "README.md").read_text()


def test_convert_checkpoint(run, tmp_path, phantom_files):
    torch.manual_seed(0)
    torch.save({"state_dict": resnet18(num_classes=1).state_dict(), "epoch": 3}, tmp_path / "weights.pth")
    done = run(
        "convert_checkpoint.py", tmp_path / "weights.pth", "--architecture", "resnet18", "--single_logit",
        "--image_size", 64, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert f"Converted: {tmp_path / 'out'}. Left out: nothing." in done.stdout
    assert "cannot be evaluated or given a card" in done.stdout
    assert 0 < StudyPredictor.from_pretrained(tmp_path / "out")(phantom_files).probability < 1


def test_contact_sheet(tmp_path):
    real = tmp_path / "real.png"
    Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (300, 1))).save(real)
    contact_sheet(["--output", str(tmp_path / "sheet.png"), "--side", "48", "--seed", "2", "--beside", str(real)])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (8 * 48, 6 * 48)
    cells = sheet[: 7 * 48].reshape(7, 48, 6, 48).swapaxes(1, 2)
    assert (cells.reshape(7, 6, -1).std(-1) > 10).all()
    twins = (cells[:, 0::2] != cells[:, 1::2]).reshape(7, 3, -1).any(-1)
    assert twins.sum() >= 18  # nearly every projection shows the finding
    assert sheet[7 * 48 :, :48].std() > 10
    assert sheet[7 * 48 :, 48:].std() == 0


def test_show_preprocessing(tmp_path, phantom_files):
    framed = np.pad(np.random.default_rng(0).integers(60, 200, (80, 50), dtype=np.uint8), 20)
    Image.fromarray(framed).save(tmp_path / "framed.png")
    show_preprocessing([str(tmp_path / "framed.png"), "--output", str(tmp_path / "one.png"), "--size", "48"])
    show_preprocessing(["--output", str(tmp_path / "phantoms.png"), "--size", "48"])
    one, phantoms = (np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
                     for name in ("one.png", "phantoms.png"))  # fmt: skip
    assert one.shape[1] == phantoms.shape[1] > 9 * 48
    assert phantoms.shape[0] > 2 * one.shape[0]  # three rows
    # Only the center crop, the fourth of nine columns, has a frame.
    columns = np.flatnonzero((np.abs(one - [255, 176, 0]).sum(-1) < 60).any(0)) / one.shape[1]
    assert 0.3 < columns.min() < 0.4
    assert 0.4 < columns.max() < 0.52
    with pytest.raises(ValueError, match="no image"):
        draw_preprocessing({}, tmp_path / "none.png")


def test_show_boxes(run, tmp_path, phantom_tree):
    options = ["--columns", 3, "--lines", 2, "--side", 100]
    for name in ("boxes.png", "again.png"):
        run("show_boxes.py", phantom_tree, "--output", tmp_path / name, *options)
    sheet = np.asarray(Image.open(tmp_path / "boxes.png"))
    assert sheet.shape == (2 * 118, 300, 3)
    orange = (sheet == (255, 176, 0)).all(-1)
    assert all(orange[top : top + 118, left : left + 100].sum() > 20 for top in (0, 118) for left in (0, 100, 200))
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "boxes.png").read_bytes()
    rows = load_mura(phantom_tree)["train"]
    with pytest.raises(DatasetError, match="no image has a box"):
        draw_boxes(rows.remove_columns("boxes"), tmp_path / "sheet.png")
    with pytest.raises(DatasetError, match="cannot be written"):
        draw_boxes(rows, tmp_path / "nowhere" / "sheet.png")


def test_an_error_is_a_sentence_without_traceback(run, tmp_path):
    done = run("train.py", "--config", "phantom", "--data_dir", tmp_path, "--output_dir", tmp_path / "run")
    assert done.code == 1
    assert "is not a dataset that can be loaded. It contains nothing" in done.stderr
    assert "Traceback" not in done.stderr
