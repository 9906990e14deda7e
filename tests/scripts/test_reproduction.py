import json
import runpy
import sys
from pathlib import Path

import pytest
import reproduction
import tables as reproduction_table
import yaml
from impossible import find_flags
from reproduction import Budget, Reproduction, reproduce
from tables import make_rows, write_tables

from mura_hf import DatasetError, load_mura
from mura_hf import evaluation as assessment
from mura_hf.errors import TrainingStopped
from mura_hf.evaluation import evaluate_checkpoint, load_published
from mura_hf.evaluation.published import PublishedFigure, PublishedStudy, PublishedSystem
from mura_hf.models import BODY_PARTS

BUDGET = Budget(epochs=1, fraction=0.6, image_size=32)
CHEAP = {
    "backbone": "cnn2", "pretrained": False, "image_size": 64, "body_part_head": False, "epochs": 9, "batch_size": 16,
    "dev_fraction": 0.25, "calib_fraction": 0.1,
}  # fmt: skip


def _study(folder):
    """Two small networks and their ensemble, one that cannot be trained, and the random answer on hands."""
    cut = {name: CHEAP[name] for name in ("dev_fraction", "calib_fraction")}
    recipes = {
        "one": CHEAP,
        "other": {**CHEAP, "learning_rate": 0.01},
        "too_few": {**CHEAP, "family": "specialized"},  # parts of a tree so small lack a class
        "both": {"family": "ensemble", "members": [str(folder / "one.yaml"), str(folder / "other.yaml")], **cut},
    }
    for name, values in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    everything = tuple(BODY_PARTS)
    figures = (
        PublishedFigure("accuracy", "all", 0.7857, 4, "image", "valid"),
        PublishedFigure("kappa", "hand", 0.851, 3, "study", "valid"),
    )
    systems = [PublishedSystem(name, str(folder / f"{name}.yaml"), None, everything, figures) for name in recipes]
    random = PublishedSystem("random", None, "random", ("hand",), (figures[1],))
    return PublishedStudy("Z", "a study", ("a note",), None, {}, (), (*systems, random))


@pytest.fixture(scope="module")
def reached(phantom_tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduced")
    with pytest.MonkeyPatch.context() as patch:
        published = {**load_published(), "Z": _study(folder)}
        for module in (reproduction, reproduction_table):
            patch.setattr(module, "load_published", lambda: published)
        trained = []
        train = reproduction.train

        def counting(datasets, recipe, output_dir, **options):
            trained.append(output_dir.name)
            return train(datasets, recipe, output_dir, **options)

        patch.setattr(reproduction, "train", counting)
        found = reproduce(phantom_tree, folder / "out", ["Z"], budget=BUDGET, cpu=True)
        write_tables(["Z"], found, folder / "out")
        yield folder / "out", found, trained


def test_every_run_is_measured_and_one_that_fails_says_why(reached):
    folder, found, _ = reached
    assert set(found.records) == {"one", "other", "both", "random-hand"}
    assert set(found.failed) == {"too_few"}
    assert "Traceback" in (folder / "failures" / "too_few.txt").read_text()
    table = (folder / "reproduction.md").read_text()
    assert f"**failed**: too_few failed: {found.failed['too_few']}" in table
    assert "a note" in table
    assert "no: data, budget" in table
    assert "| yes |" not in table


def test_our_figures_are_those_of_the_checkpoint_at_the_same_level(reached, phantom_tree):
    folder, found, _ = reached
    valid = load_mura(phantom_tree)["valid"]
    for name in ("one", "both"):
        report = evaluate_checkpoint(folder / "runs" / name / "checkpoint", valid, "valid", cpu=True)
        for level in ("image", "study"):
            assert found.records[name][level] == json.loads(json.dumps(report[level]))
    told = json.loads((folder / "reproduction.json").read_text())
    row = next(row for row in told["rows"] if row["system"] == "one")
    expected = found.records["one"]["image"]["overall"]
    assert (row["ours"], row["n"]) == (expected["figures"]["accuracy"], len(valid))
    assert [row["low"], row["high"]] == expected["intervals"]["accuracy"]
    assert (row["printed"], row["level"]) == (".7857", "image")


def test_a_share_of_patients_is_trained_on_and_members_are_not_trained_twice(reached):
    folder, _, _ = reached
    record = json.loads((folder / "runs" / "one" / "checkpoint" / "training.json").read_text())
    whole = json.loads((folder / "runs" / "both" / "checkpoint" / "training.json").read_text())
    assert record["recipe"]["epochs"] == 1
    assert record["recipe"]["image_size"] == 32
    weights = [folder / "runs" / name / "checkpoint" / "model.safetensors" for name in ("one", "both/one")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert weights[0].stat().st_mtime_ns == weights[1].stat().st_mtime_ns  # copied
    assert whole["data"]["studies"] == record["data"]["studies"]


def test_a_second_call_does_nothing_again(reached, phantom_tree, monkeypatch):
    folder, found, trained = reached
    assert trained == ["one", "other", "too_few", "both"]
    before = {file: file.stat().st_mtime_ns for file in (folder / "runs").rglob("*") if file.is_file()}
    table = (folder / "reproduction.md").read_bytes()
    monkeypatch.setattr(reproduction, "predict_views", None)
    again = reproduce(phantom_tree, folder, ["Z"], budget=BUDGET, cpu=True)
    assert trained[4:] == ["too_few"]  # what failed is tried again
    assert again.records == found.records
    write_tables(["Z"], again, folder)
    assert (folder / "reproduction.md").read_bytes() == table
    assert {file: time for file, time in before.items() if file.stat().st_mtime_ns != time} == {}


def test_runs_of_another_budget_or_recipe_are_not_mixed_in(reached, phantom_tree, monkeypatch):
    folder, _, _ = reached
    with pytest.raises(DatasetError, match="epochs was 1, now 2"):
        reproduce(phantom_tree, folder, ["Z"], budget=Budget(2, 0.6, 32), cpu=True)
    changed = folder.parent / "one.yaml"
    kept = changed.read_text()
    changed.write_text(yaml.safe_dump({**CHEAP, "learning_rate": 0.5}))
    found = reproduce(phantom_tree, folder, ["Z"], recipes=[str(changed)], budget=BUDGET, cpu=True)
    changed.write_text(kept)
    assert "learning_rate" in found.failed["one"]


def test_what_was_trained_and_not_measured_is_only_measured(reached, phantom_tree, tmp_path, monkeypatch):
    recipe = str(reached[0].parent / "one.yaml")
    call = (phantom_tree, tmp_path, ["Z"])
    with monkeypatch.context() as patch:

        def killed(*args, **options):
            raise KeyboardInterrupt

        patch.setattr(reproduction, "predict_views", killed)
        with pytest.raises(KeyboardInterrupt):
            reproduce(*call, recipes=[recipe], budget=BUDGET, cpu=True)
    weights = tmp_path / "runs" / "one" / "checkpoint" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = reproduce(*call, recipes=[recipe], budget=BUDGET, cpu=True)
    assert weights.stat().st_mtime_ns == before
    assert again.records["one"]["study"] == reached[1].records["one"]["study"]


def test_a_signal_stops_it_at_once(reached, phantom_tree, tmp_path, monkeypatch):
    def stopped(*args, **options):
        raise TrainingStopped("told to stop", 15)

    monkeypatch.setattr(reproduction, "train", stopped)
    with pytest.raises(TrainingStopped):
        reproduce(phantom_tree, tmp_path / "out", ["Z"], budget=BUDGET, cpu=True)


def _whole(key, run, **changes):
    figures = {"accuracy": 0.8, "kappa": 0.6, "auroc": 0.9, "f1": 0.7, "n": 10, "sensitivity": 0.7, "specificity": 0.9}
    place = {"overall": {"figures": figures, "intervals": {"accuracy": [0.7, 0.9]}}}
    record = {"whole_valid": True, "image": place, "study": place, **changes}
    study = load_published()[key]
    return make_rows(study, find_flags(study), Reproduction("mura", Budget(), {run: record}))


def test_only_the_same_data_split_and_budget_make_a_comparison():
    rows = {row.metric: row for row in _whole("B", "b_he") if row.recipe == "b_he"}
    assert rows["accuracy"].reasons == ()
    assert (rows["accuracy"].ours, rows["accuracy"].low) == (0.8, 0.7)
    assert [word for word, _ in rows["f1"].reasons] == ["metric"]
    other = next(row for row in _whole("B", "b_he") if row.recipe == "b_frozen")
    assert [word for word, _ in other.reasons] == ["not run"]
    of_d = [row for row in _whole("D", "d_resnet50") if row.recipe == "d_resnet50" and row.part == "all"]
    assert {row.level for row in of_d} == {"study"}
    assert [[word for word, _ in row.reasons] for row in of_d] == [["split"], ["split"]]
    partial = [row for row in _whole("B", "b_he", whole_valid=False) if row.recipe == "b_he"]
    assert partial[0].reasons[0][0] == "data"
    of_train = [row for row in _whole("A", "a_siamese_resnet50_128-finger") if row.recipe == "a_siamese_resnet50_128"]
    assert [row.ours for row in of_train] == [None, None, 0.8, 0.6]


def test_one_answer_for_all_of_ours_is_told_too():
    figures = {"accuracy": 0.5, "kappa": 0.0, "f1": 0.0, "n": 10, "sensitivity": 0.0, "specificity": 1.0}
    place = {"overall": {"figures": figures, "intervals": {}}}
    rows = _whole("B", "b_he", image=place)
    assert [row.constant for row in rows if row.recipe == "b_he"] == [True, True]
    ranked = {**place["overall"], "figures": {**figures, "auroc": 0.9}}
    rows = [row for row in _whole("D", "d_resnet50", study={"overall": ranked}) if row.ours is not None]
    assert {row.metric: row.constant for row in rows} == {"accuracy": True, "auroc": False}


def test_random_answers_are_of_their_parts_alone(reached):
    _, found, _ = reached
    hands = found.records["one"]["image"]["hand"]["figures"]
    assert found.records["random-hand"]["image"]["overall"]["figures"]["n"] == hands["n"]


def _command(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, options)])
    runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "reproduce.py"), run_name="__main__")


def test_the_command_shows_what_the_studies_printed(monkeypatch, capsys):
    _command(monkeypatch, "--study", "B", "C", "--show")
    told = capsys.readouterr().out
    assert "**accuracy against kappa**: more linear layers: accuracy .7857 (all, valid) is set against" in told
    assert "**constant answer**: from scratch, a network for each part: accuracy .5054 (elbow, valid)" in told
    assert "## D" not in told


def test_the_commands_exit_status(reached, monkeypatch, capsys, tmp_path):
    options = ["--study", "Z", "--data_dir", "data", "--output_dir", tmp_path / "out"]
    asked = {}

    def some_failed(*places, **given):
        asked.update(given)
        return reached[1]

    monkeypatch.setattr(assessment, "load_published", reproduction.load_published)
    monkeypatch.setattr(assessment, "reproduce", some_failed)
    with pytest.raises(SystemExit) as ended:
        _command(monkeypatch, *options, "--epochs", 1, "--fraction", 0.6, "--image_size", 32, "--from_scratch")
    assert ended.value.code == 1
    assert asked["budget"] == Budget(1, 0.6, 32, from_scratch=True)
    shown = capsys.readouterr()
    assert shown.out == (tmp_path / "out" / "reproduction.md").read_text()
    assert "1 of 5 runs failed" in shown.err

    def stopped(*places, **given):
        raise TrainingStopped("told to stop", 15)

    monkeypatch.setattr(assessment, "reproduce", stopped)
    with pytest.raises(SystemExit) as ended:
        _command(monkeypatch, *options)
    assert ended.value.code == 143
    with pytest.raises(SystemExit, match="2"):
        _command(monkeypatch, "--study", "Z")
