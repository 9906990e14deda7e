"""The command line of scripts/train.py, in this process."""

import importlib.util
import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from tqdm.auto import tqdm

from mura_hf.errors import TrainingStopped
from mura_hf.hub import push
from mura_hf.training import TrainingConfig, load_config
from tests.checkpoints import make_checkpoint
from tests.training.conftest import TINY


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_script", Path(__file__).parents[1] / "scripts" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(script, capsys):
    """Runs the script; returns its exit status, its output and its error messages."""

    def run(*arguments):
        try:
            script.main([str(one) for one in arguments])
            code = 0
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY.to_dict(), "name": "tiny", "epochs": 1}))
    return path


def test_the_whole_config_is_shown_and_can_be_used_again(run, tmp_path):
    code, out, _ = run(
        "--config", "scratch", "--learning_rate", "1e-5", "--rotation", 7, "--model_kwargs", "{head_layers: [8]}",
        "--seed", 4, "--show",
    )  # fmt: skip
    assert code == 0
    (tmp_path / "again.yaml").write_text(out)
    config = load_config(tmp_path / "again.yaml")
    assert set(yaml.safe_load(out)) == set(TrainingConfig().to_dict())
    assert (config.training.learning_rate, config.augmentation.rotation, config.training.seed) == (1e-5, 7, 4)
    assert config.model.model_kwargs == {"head_layers": [8]}


def test_a_checkpoint_shows_in_the_config(run):
    code, out, err = run("--config", "scratch", "--init_from", "mura-phantom", "--family", "specialized", "--show")
    shown = yaml.safe_load(out)
    assert (code, shown["family"], shown["image_size"], shown["init_heads"]) == (0, "specialized", 384, True)
    assert "there is no random_crop" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config", "d_fusenet", "--epoch", "3", "--show"], 2, 'did you mean "--epochs"'),
        (["--config", "scrach", "--show"], 1, 'did you mean "scratch"'),
        (["--config", "scratch", "--init_from", "no/such/place", "--show"], 1, "neither a folder"),
        (["--config", "scratch"], 2, "--data_dir and --output_dir must be given"),
        (["--config", "scratch", "--data_dir", ".", "--dry_run", "--save_minutes", "soon"], 2, "invalid float"),
        (["--data_dir", "."], 2, "required: --config"),
    ],
)
def test_errors_are_sentences(arguments, code, message, run):
    found, _, err = run(*arguments)
    assert found == code
    assert message in err
    assert "Traceback" not in err


def test_a_signal_ends_it_with_its_number(run, script, tiny, phantom_tree, tmp_path, monkeypatch):
    asked = {}

    def stop(datasets, config, output_dir, **options):
        asked.update(options)
        raise TrainingStopped("stopped, and saved", signal.SIGTERM.value)

    monkeypatch.setattr(script, "train", stop)
    code, _, err = run(
        "--config", tiny, "--data_dir", phantom_tree, "--output_dir", tmp_path / "run", "--save_minutes", 2,
        "--save_steps", 30, "--tracker", "tensorboard", "--no_cache", "--cpu",
    )  # fmt: skip
    assert (code, err.splitlines()[-1]) == (143, "stopped, and saved")
    assert (asked["save_minutes"], asked["save_steps"], asked["tracker"]) == (2.0, 30, "tensorboard")
    assert (asked["cpu"], asked["cache_dir"], asked["trained_on_phantoms"]) == (True, None, True)


def test_an_estimate_is_printed(run, tiny, phantom_tree):
    code, out, _ = run("--config", tiny, "--data_dir", phantom_tree, "--estimate", "--cpu", "--no_cache")
    assert code == 0
    data, model, stage, memory, time = out.splitlines()[-5:]
    assert re.match(r"Data: train \d+ studies \(\d+ views\), dev ", data)
    assert re.match(r"Model tiny: [\d,]+ parameters", model)
    assert re.search(r"Views: 1 epochs of \d steps, \d\.\d\d s a step", stage)
    assert re.match(r"Memory: at most [\d,]+ MB of each process", memory)
    assert re.match(r"Time: about 0 min on cpu, one process, in fp32", time)


def test_recorded_options_name_no_place_of_this_machine(script, tmp_path):
    (tmp_path / "mine.yaml").touch()
    stages = str([{"epochs": 1, "trains": "all"}] * 20)  # longer than the name of a file may be
    given = [
        "--config", f"{tmp_path}/mine.yaml:small", "--data_dir", tmp_path, "--learning-rate=1e-4", "--stages", stages,
        "--members", f"{tmp_path}/mine.yaml", "ours", "--cache-dir", tmp_path, "--cpu", "--regions", "hand", "leg",
    ]  # fmt: skip
    assert script.shared_options(list(map(str, given)), None) == [
        "--config", "mine.yaml:small", "--learning-rate", "1e-4", "--stages", stages, "--members", "mine.yaml", "ours",
        "--regions", "hand", "leg",
    ]  # fmt: skip
    base = {"name": "somebody/mura", "revision": "abc"}
    assert script.shared_options(["--init_from", "somebody/mura"], base) == ["--init_from", "somebody/mura@abc"]


@pytest.mark.slow
def test_fine_tuning_on_a_few_films_of_a_folder(run, tiny, phantom_tree, tmp_path, monkeypatch):
    """From a CSV file to the dry run of a push: one bar at a time, and a verdict in words."""
    films, shown = tmp_path / "films", set()
    films.mkdir()
    lines = ["file_name,label"]
    for number, file in enumerate(sorted(phantom_tree.glob("*/*/*/*/image1.png"))):
        shutil.copy(file, films / f"{number}.png")
        lines.append(f"{number}.png,{int('positive' in str(file))}")
    (films / "metadata.csv").write_text("\n".join(lines))
    base = make_checkpoint(tmp_path / "base", backbone_kwargs={"channels": [8, 16, 24, 32]})
    (base / "training.json").write_text(json.dumps({"data": {"key": "mura", "name": "MURA v1.1"}}))
    display = tqdm.display

    def count(self, *given, **options):
        shown.add(len([bar for bar in tqdm._instances if not bar.disable]))
        return display(self, *given, **options)

    monkeypatch.setattr(tqdm, "display", count)
    code, out, err = run(
        "--config", tiny, "--init_from", base, "--data_dir", films, "--output_dir", tmp_path / "run", "--cpu",
        "--no_cache", "--valid_fraction", 0.5,
    )  # fmt: skip
    assert code == 0, err
    checkpoint = tmp_path / "run" / "checkpoint"
    options = json.loads((checkpoint / "training.json").read_text())["options"]
    assert options == ["--config", "tiny.yaml", "--init_from", "base", "--valid_fraction", "0.5"]
    verdict, *commands = [line for line in out.splitlines() if line][-5:]
    assert re.match(r"(Better|Worse|Not shown to be better|Too few studies to tell .*) than its start, base", verdict)
    assert f"**{verdict}**" in (checkpoint / "README.md").read_text()
    assert commands[1:] == [
        f"  MURA_CHECKPOINT={checkpoint} python app.py", f"  less {checkpoint}/README.md",
        f"  python scripts/push_to_hub.py {checkpoint} USER/NAME --dry_run",
    ]  # fmt: skip
    assert "Not calibrated on calib: too few" in out
    assert "left out, because train names no body part" in err
    assert max(shown) == 1
    assert "Loading weights" not in err
    push(checkpoint, "me/films", dry_run=True)
    (snippet,) = re.findall(r"```python\n(.*?)```", (checkpoint / "README.md").read_text(), re.DOTALL)
    assert '["radiograph.png"]' in snippet


@pytest.mark.slow
def test_a_model_for_each_part_with_one_command(run, tiny, phantom_tree, tmp_path):
    command = [
        "--config", tiny, "--data_dir", phantom_tree, "--output_dir", tmp_path / "run", "--family", "specialized",
        "--cpu", "--no_cache", "--image_size", 32, "--dev_fraction", 0.3, "--body_parts", "elbow", "finger",
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
    assert (code, "exist already" in out) == (0, True)
    assert ModelCard.load(checkpoint / "README.md").data.model_name == "run"
