import json

import pytest
import reproduce as command
import runs
import tables
import yaml
from plausibility import find_flags
from published import PublishedFigure, PublishedStudy, PublishedSystem, load_published
from runs import (
    Budget,
    Reproduction,
    load_study_config,
    plan_runs,
    reproduce,
    shorten,
    starts_pretrained,
    take_patients,
)
from systems import SYSTEMS
from tables import make_rows, write_tables

from mura_hf import DatasetError, load_mura
from mura_hf.errors import ConfigError, TrainingStopped
from mura_hf.evaluation import evaluate_checkpoint
from mura_hf.models import BODY_PARTS
from mura_hf.training import load_config

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


def _fails(error):
    """A function that raises an error, whatever it is given."""

    def fail(*args, **options):
        raise error

    return fail


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
    assert "| yes |" not in table


def test_our_figures_are_those_of_the_checkpoint_at_the_same_level(reached, phantom_tree):
    folder, found, _ = reached
    valid = load_mura(phantom_tree)["valid"]
    report = evaluate_checkpoint(folder / "runs" / "both" / "checkpoint", valid, "valid", cpu=True)
    for level in ("image", "study"):
        assert found.records["both"][level] == json.loads(json.dumps(report[level]))
    content = json.loads((folder / "reproduction.json").read_text())
    row = next(row for row in content["rows"] if row["system"] == "one")
    expected = found.records["one"]["image"]["overall"]
    assert (row["ours"], row["n"]) == (expected["figures"]["accuracy"], len(valid))
    assert [row["low"], row["high"]] == list(expected["intervals"].get("accuracy", (None, None)))
    assert (row["printed"], row["level"]) == (".7857", "image")
    hands = found.records["one"]["image"]["hand"]["figures"]
    assert found.records["random-hand"]["image"]["overall"]["figures"]["n"] == hands["n"]


def test_the_budget_holds_and_members_are_not_trained_twice(reached):
    folder, _, _ = reached
    one, both = (json.loads((folder / "runs" / name / "checkpoint" / "training.json").read_text())
                 for name in ("one", "both"))  # fmt: skip
    assert (one["arguments"]["epochs"], one["arguments"]["image_size"]) == (1, 32)
    weights = [folder / "runs" / name / "checkpoint" / "model.safetensors" for name in ("one", "both/one")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert weights[0].stat().st_mtime_ns == weights[1].stat().st_mtime_ns  # copied
    assert both["data"]["studies"] == one["data"]["studies"]


def test_a_second_call_repeats_nothing(reached, phantom_tree, monkeypatch):
    folder, found, trained = reached
    assert trained == ["one", "other", "too_few", "both"]
    before = {file: file.stat().st_mtime_ns for file in (folder / "runs").rglob("*") if file.is_file()}
    table = (folder / "reproduction.md").read_bytes()
    monkeypatch.setattr(runs, "measure_levels", None)
    again = reproduce(phantom_tree, folder, ["Z"], budget=BUDGET, cpu=True)
    assert trained[4:] == ["too_few"]  # failed runs are tried again
    assert again.records == found.records
    write_tables(["Z"], again, folder)
    assert (folder / "reproduction.md").read_bytes() == table
    assert {file: time for file, time in before.items() if file.stat().st_mtime_ns != time} == {}


def test_runs_with_other_settings_are_not_mixed(reached, phantom_tree):
    folder, _, _ = reached
    with pytest.raises(DatasetError, match="epochs was 1, now 2"):
        reproduce(phantom_tree, folder, ["Z"], budget=Budget(2, 0.6, 32), cpu=True)
    changed = folder.parent / "one.yaml"
    kept = changed.read_text()
    changed.write_text(yaml.safe_dump({**CHEAP, "learning_rate": 0.5}))
    found = reproduce(phantom_tree, folder, ["Z"], configs=[str(changed)], budget=BUDGET, cpu=True)
    changed.write_text(kept)
    assert "learning_rate" in found.failed["one"]


def test_a_trained_run_is_only_measured_and_a_signal_stops_at_once(reached, phantom_tree, tmp_path, monkeypatch):
    config = str(reached[0].parent / "one.yaml")

    def run():
        return reproduce(phantom_tree, tmp_path, ["Z"], configs=[config], budget=BUDGET, cpu=True)

    for name, error in (("train", TrainingStopped("stopped", 15)), ("measure_levels", KeyboardInterrupt())):
        with monkeypatch.context() as patch:
            patch.setattr(runs, name, _fails(error))
            with pytest.raises(type(error)):
                run()
    weights = tmp_path / "runs" / "one" / "checkpoint" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = run()
    assert weights.stat().st_mtime_ns == before
    assert again.records["one"]["study"] == reached[1].records["one"]["study"]


def test_each_run_is_planned_once_and_members_first():
    published = load_published()
    names = [run.name for run in plan_runs([published["D"]])]
    assert len(names) == len(set(names)) == 8
    assert names[-1] == "d_ensemble"
    some = [run.name for run in plan_runs([published["C"], published["E"]], ["c_cnn2", "random"])]
    assert some == ["c_cnn2", "c_cnn2-wrist", "c_cnn2-elbow", "c_cnn2-finger-wrist", "random-wrist"]
    assert {run.body_parts for run in plan_runs([published["A"]])} == {("finger",)}
    with pytest.raises(ConfigError, match="c_cnn3: no such config"):
        plan_runs([published["C"]], ["c_cnn3"])


def test_a_budget_holds_in_every_stage_and_member(tmp_path):
    budget = Budget(epochs=1, image_size=64, from_scratch=True)
    fusenet = shorten("d_fusenet", budget, tmp_path)
    assert [stage.epochs for stage in fusenet.training.stages] == [1, 1, 1]
    assert (fusenet.model.image_size, fusenet.model.resize_size, fusenet.model.pretrained) == (64, 74, False)
    assert fusenet.name == "d_fusenet"
    patches, views = shorten("phantom", Budget(epochs=2, image_size=192), tmp_path).training.stages
    assert (patches.epochs, patches.patch_size, views.epochs) == (2, 56, 2)
    ensemble = shorten("d_ensemble", budget, tmp_path)
    assert [load_config(member) for member in ensemble.model.members] == [
        shorten(name, budget, tmp_path) for name in load_study_config("d_ensemble").model.members
    ]
    routed = shorten("c_specialized_routed", budget, tmp_path)
    assert load_config(routed.model.router) == shorten("c_router_densenet121", budget, tmp_path)
    assert shorten("d_resnet50", Budget(), tmp_path) == load_study_config("d_resnet50")
    assert starts_pretrained("d_ensemble")
    assert not starts_pretrained("e_wrist_cnn")
    assert Budget().describe() == ""
    assert BUDGET.describe() == "1 epoch in each stage, a share of 0.6 of train's patients, images of 32 px"
    for wrong in ({"epochs": 0}, {"fraction": 0.0}, {"fraction": 1.5}, {"image_size": 0}):
        with pytest.raises(ConfigError):
            Budget(**wrong)


def test_a_share_of_the_patients_is_taken(phantom_tree):
    rows = load_mura(phantom_tree)["train"]
    some = take_patients(rows, 0.5, seed=0)
    kept, patients = set(some["patient_id"]), set(rows["patient_id"])
    assert 0.35 * len(patients) < len(kept) < 0.65 * len(patients)
    assert len(some) == sum(patient in kept for patient in rows["patient_id"])
    assert set(some["label"]) == {0, 1}
    assert some["study_id"] == take_patients(rows, 0.5, seed=0)["study_id"]
    assert take_patients(rows, 1.0, seed=0) is rows


def _rows(key, run, **changes):
    figures = {"accuracy": 0.8, "kappa": 0.6, "auroc": 0.9, "f1": 0.7, "n": 10, "sensitivity": 0.7, "specificity": 0.9}
    level = {"overall": {"figures": figures, "intervals": {"accuracy": [0.7, 0.9]}}}
    record = {"whole_valid": True, "image": level, "study": level, **changes}
    study = load_published()[key]
    return make_rows(study, find_flags(study), Reproduction("mura", Budget(), {run: record}))


def test_only_the_same_data_split_and_budget_are_a_comparison():
    rows = {row.metric: row for row in _rows("B", "b_he") if row.config == "b_he"}
    assert rows["accuracy"].reasons == ()
    assert (rows["accuracy"].ours, rows["accuracy"].low) == (0.8, 0.7)
    assert [word for word, _ in rows["f1"].reasons] == ["metric"]
    other = next(row for row in _rows("B", "b_he") if row.config == "b_frozen")
    assert [word for word, _ in other.reasons] == ["not run"]
    of_d = [row for row in _rows("D", "d_resnet50") if row.config == "d_resnet50" and row.part == "all"]
    assert [(row.level, [word for word, _ in row.reasons]) for row in of_d] == [("study", ["split"])] * 2
    partial = next(row for row in _rows("B", "b_he", whole_valid=False) if row.config == "b_he")
    assert partial.reasons[0][0] == "data"
    of_train = [row for row in _rows("A", "a_siamese_resnet50_128-finger") if row.config == "a_siamese_resnet50_128"]
    assert [row.ours for row in of_train] == [None, None, 0.8, 0.6]


def test_one_answer_for_all_is_marked_in_our_figures():
    figures = {"accuracy": 0.5, "kappa": 0.0, "f1": 0.0, "n": 10, "sensitivity": 0.0, "specificity": 1.0}
    level = {"overall": {"figures": figures, "intervals": {}}}
    assert [row.constant for row in _rows("B", "b_he", image=level) if row.config == "b_he"] == [True, True]
    ranked = {"overall": {"figures": {**figures, "auroc": 0.9}, "intervals": {}}}
    rows = [row for row in _rows("D", "d_resnet50", study=ranked) if row.ours is not None]
    assert {row.metric: row.constant for row in rows} == {"accuracy": True, "auroc": False}


def test_the_command_shows_published_figures_and_systems(capsys):
    command.main(["--study", "B", "C", "--show"])
    shown = capsys.readouterr().out
    assert "**accuracy against kappa**: more linear layers: accuracy .7857 (all, valid) is compared with" in shown
    assert "**constant answer**: from scratch, a network for each part: accuracy .5054 (elbow, valid)" in shown
    assert "## D" not in shown
    command.main(["--systems"])
    assert all(f"| `{name}` | `{kind}` |" in capsys.readouterr().out for name, kind in list(SYSTEMS.items())[:1])


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

    monkeypatch.setattr(command, "reproduce", _fails(TrainingStopped("stopped", 15)))
    with pytest.raises(SystemExit, match="143"):
        command.main(options)
    with pytest.raises(SystemExit, match="2"):
        command.main(["--study", "Z"])
