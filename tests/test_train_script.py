"""The command line of scripts/train.py, in this process."""

import json
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

import mura_hf.training
from mura_hf.errors import TrainingStopped
from mura_hf.training import Recipe, load_recipe
from tests.training.conftest import TINY

SCRIPT = str(Path(__file__).parents[1] / "scripts" / "train.py")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the script; gives its exit status, what it printed, and what it complained about."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, arguments)])
        try:
            runpy.run_path(SCRIPT, run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY.to_dict(), "name": "tiny", "epochs": 1}))
    return path


def test_the_whole_recipe_is_shown_and_can_be_used_again(run, tmp_path):
    settings = ["learning_rate=1e-5", "augmentation.rotation=7"]
    code, out, _ = run(
        "--recipe", "scratch", "--set", *settings, "--set", "model.head_layers=[8]", "--seed", 4, "--show"
    )
    assert code == 0
    (tmp_path / "again.yaml").write_text(out)
    recipe = load_recipe(tmp_path / "again.yaml")
    assert set(yaml.safe_load(out)) == set(Recipe().to_dict())
    assert (recipe.learning_rate, recipe.augmentation.rotation, recipe.seed) == (1e-5, 7, 4)
    assert recipe.model == {"head_layers": [8]}


def test_a_checkpoint_shows_in_the_recipe(run):
    code, out, err = run("--recipe", "scratch", "--init_from", "bundled", "--each_body_part", "--show")
    shown = yaml.safe_load(out)
    assert (code, shown["family"], shown["image_size"], shown["init_heads"]) == (0, "specialized", 384, True)
    assert "there is no random_crop" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe", "scratch", "--set", "epoch=3", "--show"], 1, "did you mean 'epochs'"),
        (["--recipe", "scrach", "--show"], 1, "did you mean 'scratch'"),
        (["--recipe", "scratch", "--init_from", "no/such/place", "--show"], 1, "neither a folder"),
        (["--recipe", "scratch"], 2, "required: --data_dir, --output_dir"),
        (["--recipe", "scratch", "--data_dir", ".", "--dry_run", "--save_minutes", "soon"], 2, "invalid float"),
    ],
)
def test_trouble_is_a_sentence(arguments, code, message, run):
    found, _, err = run(*arguments)
    assert found == code
    assert message in err
    assert "Traceback" not in err


def test_a_signal_ends_it_with_its_number(run, tiny, phantom_tree, tmp_path, monkeypatch):
    asked = {}

    def stop(datasets, recipe, output_dir, **options):
        asked.update(options)
        raise TrainingStopped("stopped, and saved", signal.SIGTERM.value)

    monkeypatch.setattr(mura_hf.training, "train", stop)
    code, _, err = run(
        "--recipe", tiny, "--data_dir", phantom_tree, "--output_dir", tmp_path / "run", "--save_minutes", 2,
        "--save_steps", 30, "--tracker", "tensorboard", "--no_cache", "--cpu",
    )  # fmt: skip
    assert (code, err.splitlines()[-1]) == (143, "stopped, and saved")
    assert (asked["save_minutes"], asked["save_steps"], asked["tracker"]) == (2.0, 30, "tensorboard")
    assert (asked["cpu"], asked["cache_dir"], asked["trained_on_phantoms"]) == (True, None, True)


def test_a_dry_run_is_told_in_sentences(run, tiny, phantom_tree):
    code, out, _ = run("--recipe", tiny, "--data_dir", phantom_tree, "--dry_run", "--cpu", "--no_cache")
    assert code == 0
    data, model, stage, memory, time = out.splitlines()[-5:]
    assert re.match(r"Data: train \d+ studies \(\d+ views\), dev ", data)
    assert re.match(r"Model tiny: [\d,]+ parameters, [\d,]+ of them trained", model)
    assert re.search(r"Views: 1 epochs of \d steps, .* losses of the first steps \d\.\d{4}, ", stage)
    assert re.match(r"Memory: [\d,]+ MB of each process", memory)
    assert re.match(r"Time: about 0 min on cpu, one process, in fp32", time)


def test_a_model_for_each_part_by_one_command(run, tiny, phantom_tree, tmp_path):
    command = [
        "--recipe", tiny, "--data_dir", phantom_tree, "--output_dir", tmp_path / "run", "--each_body_part", "--cpu",
        "--no_cache", "--set", "image_size=32", "dev_fraction=0.3", "--body_parts", "elbow", "finger",
    ]  # fmt: skip
    code, out, err = run(*command)
    assert code == 0, err
    checkpoint = tmp_path / "run" / "checkpoint"
    config = json.loads((checkpoint / "config.json").read_text())
    assert (config["model_type"], set(config["members"])) == ("mura_specialized", {"elbow", "finger"})
    report = json.loads((checkpoint / "evaluation.json").read_text())
    assert set(report["study"]) == {"overall", "elbow", "finger"}
    assert "Card written" in out
    code, out, _ = run(*command)
    assert (code, "stand already" in out) == (0, True)
    assert ModelCard.load(checkpoint / "README.md").data.model_name == "run"


def test_a_mistyped_option_is_told_at_once():
    done = subprocess.run([sys.executable, "-X", "importtime", SCRIPT, "--recip"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "torch" not in done.stderr  # nothing heavy was imported for it
