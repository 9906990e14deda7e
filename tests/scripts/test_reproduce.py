import json

import pytest
import reproduce as command
import runs
import tables
import yaml
from published import PublishedFigure, PublishedStudy, PublishedSystem, load_published
from runs import Budget, reproduce
from tables import write_tables

from mura_hf.errors import DatasetError, TrainingStopped
from mura_hf.models import BODY_PARTS

BUDGET = Budget(epochs=1, fraction=0.6, image_size=32)
CHEAP = {
    "backbone": "cnn2", "pretrained": False, "image_size": 64, "body_part_head": False, "epochs": 9, "batch_size": 16,
    "dev_fraction": 0.25, "calib_fraction": 0.1,
}  # fmt: skip


def _study(folder):
    """Two small networks and their ensemble, one that cannot be trained, and random answers on hands."""
    cut = {name: CHEAP[name] for name in ("dev_fraction", "calib_fraction")}
    files = {name: str(folder / f"{name}.yaml") for name in ("one", "other", "too_few", "both")}
    configs = {
        "one": CHEAP,
        "other": {**CHEAP, "learning_rate": 0.01},
        "too_few": {**CHEAP, "family": "specialized"},  # body parts of a small tree lack a class
        "both": {"family": "ensemble", "members": [files["one"], files["other"]], **cut},
    }
    for name, values in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    accuracy = PublishedFigure("accuracy", "all", 0.7857, 4, "image", "valid")
    kappa = PublishedFigure("kappa", "hand", 0.851, 3, "study", "valid")
    systems = [PublishedSystem(name, file, None, tuple(BODY_PARTS), (accuracy, kappa)) for name, file in files.items()]
    random = PublishedSystem("random", None, "random", ("hand",), (kappa,))
    return PublishedStudy("Z", "a study", ("a note",), None, {}, (), (*systems, random))


@pytest.fixture(scope="module")
def reached(phantom_tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduced")
    with pytest.MonkeyPatch.context() as patch:
        published = {**load_published(), "Z": _study(folder)}
        for module in (runs, tables, command):
            patch.setattr(module, "load_published", lambda: published)
        trained = []
        train = runs.train

        def counting(datasets, config, output_dir, **options):
            trained.append(output_dir.name)
            return train(datasets, config, output_dir, **options)

        patch.setattr(runs, "train", counting)
        found = reproduce(phantom_tree, folder / "out", ["Z"], budget=BUDGET, cpu=True)
        write_tables(["Z"], found, folder / "out")
        yield folder / "out", found, trained


def test_every_run_is_measured_and_a_failure_is_explained(reached):
    folder, found, _ = reached
    assert set(found.records) == {"one", "other", "both", "random-hand"}
    assert set(found.failed) == {"too_few"}
    assert "Traceback" in (folder / "failures" / "too_few.txt").read_text()
    table = (folder / "reproduction.md").read_text()
    assert f"**failed**: too_few failed: {found.failed['too_few']}" in table
    assert "a note" in table
    assert "no: data, budget" in table
    assert "| yes |" not in table  # not MURA's valid, and trained shorter
    row = next(row for row in json.loads((folder / "reproduction.json").read_text())["rows"] if row["system"] == "one")
    assert (row["printed"], row["ours"]) == (".7857", found.records["one"]["image"]["overall"]["figures"]["accuracy"])
    training = json.loads((folder / "runs" / "one" / "checkpoint" / "training.json").read_text())
    assert (training["arguments"]["epochs"], training["arguments"]["image_size"]) == (1, 32)
    copied, own = (folder / "runs" / name / "checkpoint" / "model.safetensors" for name in ("both/one", "one"))
    assert copied.stat().st_mtime_ns == own.stat().st_mtime_ns  # members are not trained twice


def test_a_second_call_repeats_nothing(reached, phantom_tree, monkeypatch):
    folder, found, trained = reached
    assert trained == ["one", "other", "too_few", "both"]
    before = {file: file.stat().st_mtime_ns for file in (folder / "runs").rglob("*") if file.is_file()}
    table = (folder / "reproduction.md").read_bytes()
    with pytest.raises(DatasetError, match="epochs was 1, now 2"):
        reproduce(phantom_tree, folder, ["Z"], budget=Budget(2, 0.6, 32), cpu=True)
    monkeypatch.setattr(runs, "measure_levels", None)
    again = reproduce(phantom_tree, folder, ["Z"], budget=BUDGET, cpu=True)
    assert trained[4:] == ["too_few"]  # failed runs are tried again
    assert again.records == found.records
    write_tables(["Z"], again, folder)
    assert (folder / "reproduction.md").read_bytes() == table
    assert {file: time for file, time in before.items() if file.stat().st_mtime_ns != time} == {}


def test_the_exit_status_of_the_command(reached, monkeypatch, capsys, tmp_path):
    options = ["--study", "Z", "--data_dir", "data", "--output_dir", str(tmp_path / "out")]
    given = {}

    monkeypatch.setattr(command, "reproduce", lambda *places, **options: given.update(options) or reached[1])
    with pytest.raises(SystemExit, match="1"):
        command.main([*options, "--epochs", "1", "--fraction", "0.6", "--image_size", "32", "--from_scratch"])
    assert given["budget"] == Budget(1, 0.6, 32, from_scratch=True)
    shown = capsys.readouterr()
    assert shown.out == (tmp_path / "out" / "reproduction.md").read_text()
    assert "1 of 5 runs failed" in shown.err

    def stop(*places, **options):
        raise TrainingStopped("stopped", 15)

    monkeypatch.setattr(command, "reproduce", stop)
    with pytest.raises(SystemExit, match="143"):
        command.main(options)
    with pytest.raises(SystemExit, match="2"):
        command.main(["--study", "Z"])
    capsys.readouterr()
    command.main(["--study", "B", "--show"])
    assert "**accuracy against kappa**: more linear layers: accuracy .7857" in capsys.readouterr().out
    command.main(["--systems"])
    assert "| `d_fusenet` |" in capsys.readouterr().out
