import json
import shutil

import numpy as np
import pytest
from datasets import DatasetDict
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from mura_hf import DatasetError, MuraForImageClassification, MuraImageProcessor, StudyPredictor, load_mura
from mura_hf.evaluation import (
    compare_checkpoints,
    describe_calibration,
    describe_evaluation,
    describe_verdict,
    evaluate_checkpoint,
    finalize_checkpoint,
    measure_baselines,
)
from mura_hf.evaluation.summary import FORMER_NAMES
from mura_hf.metrics import PLOTS, classification_metrics, plot_evaluation
from mura_hf.models import BODY_PARTS, CLASSIFIERS, golden_difference
from mura_hf.models.golden_mura import digest_weights
from tests.checkpoints import make_checkpoint, make_model

from .conftest import change_json

FAMILIES = {
    "one view": lambda: make_model(body_part_head=True),
    "gated attention": lambda: make_model(study_pooling="gated_attention"),
    "fusenet": lambda: make_model("mura_fusenet", full_resolution=True),
    "ensemble": lambda: CLASSIFIERS["mura_ensemble"].from_members(
        {"one": make_model(seed=1), "other": make_model("mura_fusenet", seed=2)}, weights={"one": 0.7, "other": 0.3}
    ),
    "specialized": lambda: CLASSIFIERS["mura_specialized"].from_members(
        {part: make_model(seed=number) for number, part in enumerate(BODY_PARTS)}
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_metrics_are_those_of_the_predictor(name, rows, phantom_tree, tmp_path):
    """Every family is evaluated as its checkpoint predicts, with all of its calibration."""
    folder = make_checkpoint(tmp_path / "checkpoint", FAMILIES[name]())
    calibration = {"temperature": 1.5, "study_slope": 1.3, "study_intercept": 0.2}
    change_json(folder / "config.json", **calibration)
    report = evaluate_checkpoint(folder, rows, "valid", cpu=True)
    assert report["pointing_game"]["overall"]["n"] > 0
    assert report["calibration"] == calibration

    predictor = StudyPredictor.from_pretrained(folder, device="cpu")
    predicted = {"study": ([], []), "image": ([], [])}
    for study, part in dict(zip(rows["study_id"], rows["body_part"], strict=True)).items():
        files = sorted(phantom_tree.glob(f"valid/{study}_*/*.png"))
        label = int(files[0].parent.name.endswith("_positive"))
        found = predictor(files, body_part=BODY_PARTS[part], heatmaps=False)
        images = [view.single_view_probability for view in found.views]
        for level, values in (("study", [found.probability]), ("image", images)):
            predicted[level][0].extend([label] * len(values))
            predicted[level][1].extend(values)
    for level, (labels, probabilities) in predicted.items():
        expected, figures = classification_metrics(labels, probabilities), report[level]["overall"]["figures"]
        for figure in ("n", "n_abnormal", "auroc", "accuracy", "brier", "sensitivity"):
            assert figures[figure] == pytest.approx(expected[figure], abs=1e-5), (level, figure)
    after = report["calibration_effect"]["after"]["brier"]
    assert after == pytest.approx(report["study"]["overall"]["figures"]["brier"], abs=1e-5)


def test_everything_is_reported(evaluated, rows, tmp_path):
    folder, _ = evaluated
    report = json.loads((folder / "evaluation.json").read_text())
    assert report["threshold"] == 0.42  # the default operating point of the config
    assert report["operating_points"]["youden"]["threshold"] == 0.42
    assert report["bands"]["limits"] == {"low": 0.3, "suspected": 0.6}
    bands = report["bands"]["groups"]
    for count in ("n", "n_abnormal"):
        assert sum(row[count] for row in bands["overall"].values()) == report["study"]["overall"]["figures"][count]
        for name, row in bands["overall"].items():
            assert sum(group[name][count] for part, group in bands.items() if part != "overall") == row[count]
    overall = report["study"]["overall"]
    low, high = overall["intervals"]["auroc"]
    assert low <= overall["figures"]["auroc"] <= high
    assert report["image"]["overall"]["figures"]["n"] == len(rows)
    parts = [row["figures"]["n"] for name, row in report["study"].items() if name != "overall"]
    assert sum(parts) == np.sum(overall["confusion"]) == overall["figures"]["n"]
    assert 0 <= report["body_part_accuracy"] <= 1
    assert set(report["baselines"]) == {"random", "constant", "view_count"}
    assert report["prevalence"] == 0.2
    assert report["calibration_effect"]["before"]["brier"] > 0
    assert report["shortcuts"]["masking"]["corners"]["n"] == 5
    assert len(report["randomization"]["cascade"]) == 2
    assert "n" in report["insertion_deletion"]
    assert report["pointing_game"]["overall"]["n"] >= report["projections"]["n"] // 2 > 0
    assert sum(row["figures"]["n_abnormal"] for row in report["finding"].values()) == overall["figures"]["n_abnormal"]
    for name, former in FORMER_NAMES.items():
        assert report.get(former) == report.get(name)
    lines = "\n".join(describe_evaluation(report))
    assert "Bands (low up to 0.3, suspected above 0.6): low " in lines
    assert "Out of distribution: flags" in lines
    assert report["retrieval"]["classification"]["classifier"]["auroc"] == pytest.approx(overall["figures"]["auroc"])
    assert {path.name for path in folder.glob("*.png")} == set(PLOTS)
    assert [path.name for path in plot_evaluation(report, tmp_path)] == list(PLOTS)
    assert (folder / "golden.safetensors").is_file()


def test_a_model_without_heatmaps_calibration_and_train_is_evaluated(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("mura_hf.models.modeling_mura.find_map_layer", lambda *given: None)
    folder = make_checkpoint(
        tmp_path / "checkpoint", make_model(backbone="vit_tiny_patch16_224", backbone_kwargs={"depth": 2})
    )
    report = evaluate_checkpoint(folder, rows, "valid", cpu=True)
    assert not {"pointing_game", "projections", "insertion_deletion", "sensitivity", "baselines"} & set(report)
    assert "No heatmap" in report["randomization"]["none"]
    assert report["threshold"] == 0.5
    assert report["calibration_effect"]["before"] is None


def test_an_empty_split_is_refused(rows, checkpoint):
    with pytest.raises(DatasetError, match="valid is empty"):
        evaluate_checkpoint(checkpoint, rows.select([]), "valid", cpu=True)


def test_baselines_of_studies(datasets):
    found = measure_baselines(datasets["train"], datasets["valid"])
    assert list(found) == ["random", "constant", "view_count"]
    tables = [datasets[split].remove_columns("image").to_pandas() for split in ("train", "valid")]
    train, valid = (table.groupby("study_id", sort=False)["label"].agg(["size", "first"]) for table in tables)
    truth, overall = valid["first"], train["first"].mean()
    constant = found["constant"]["figures"]
    assert (constant["n"], constant["auroc"]) == (len(truth), 0.5)
    assert constant["kappa"] == pytest.approx(0, abs=1e-12)
    same = [train["first"][train["size"] == size] for size in valid["size"]]  # studies with as many views
    expected = [(one.sum() + 10 * overall) / (len(one) + 10) for one in same]
    figures = found["view_count"]["figures"]
    assert figures["auroc"] == pytest.approx(roc_auc_score(truth, expected))
    assert figures["kappa"] == pytest.approx(cohen_kappa_score(truth, np.array(expected) > 0.5))
    low, high = found["view_count"]["intervals"]["auroc"]
    assert low <= figures["auroc"] <= high


def test_the_audit_is_a_command(evaluated, checkpoint, tmp_path, capsys):
    from audit_shortcuts import main as audit

    folder, output = shutil.copytree(evaluated[0], tmp_path / "checkpoint"), tmp_path / "audit"
    options = ["--counterfactuals", "1", "--output_dir", str(output), "--cpu"]
    audit([str(folder), *options, "--add_to_evaluation"])
    assert "Cast alone changes the probability" in capsys.readouterr().out
    assert {file.name for file in output.iterdir()} == {"shortcuts.json", "worst.png"}
    before, after = (json.loads((one / "evaluation.json").read_text()) for one in (evaluated[0], folder))
    assert after["shortcuts"].pop("counterfactuals") == after["shortcuts"].pop("twins")
    assert after.pop("sensitivity") == after.pop("following")
    assert after == before
    with pytest.raises(SystemExit, match="missing or about other weights"):
        audit([str(checkpoint), *options, "--add_to_evaluation"])
    with pytest.raises(SystemExit):
        audit([str(checkpoint), "--output_dir", str(output)])


def test_the_command_prints_and_compares(evaluated, phantom_tree, tmp_path, capsys):
    from evaluate import main

    folder, other = (shutil.copytree(evaluated[0], tmp_path / name) for name in ("one", "other"))
    place = ["--data_dir", str(phantom_tree), "--cpu", "--cache_dir", str(evaluated[1])]
    main([str(folder), *place, "--prevalence", "0.2", "--against", str(other)])
    assert "AUROC of the studies minus that of other: +0.000" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(folder), *place, "--ood", "legs"])
    with pytest.raises(SystemExit, match="not a folder on this machine"):
        main([str(tmp_path / "nowhere"), *place])


@pytest.mark.usefixtures("few_suffice")
def test_calibrated_then_evaluated(phantom_tree, folder, monkeypatch):
    datasets = load_mura(phantom_tree, dev_fraction=0.1, calib_fraction=0.6)
    monkeypatch.setenv("RANK", "0")  # left over from a process group that has ended
    monkeypatch.setenv("WORLD_SIZE", "2")
    start = make_checkpoint(folder.parent / "start", make_model(seed=4))
    base = {"name": "somebody/start", "sha256": digest_weights(start), "heads": True}
    (folder / "training.json").write_text(json.dumps({"base": base, "data": {"known_to_base": {"valid": 2}}}))
    done = finalize_checkpoint(folder, datasets, data={"key": "phantoms"}, start=start, cpu=True)
    config = json.loads((folder / "config.json").read_text())
    assert done.calibration["study_slope"] == config["study_slope"]
    assert done.evaluation["calibration"]["study_slope"] == config["study_slope"]
    assert json.loads((folder / "evaluation.json").read_text())["split"] == "valid"
    assert done.skipped == []
    assert (folder / "in_distribution.safetensors").exists()
    model = MuraForImageClassification.from_pretrained(folder)
    processor = MuraImageProcessor.from_pretrained(folder)
    assert golden_difference(folder, model, processor) < 1e-5
    processor.resize_mode = "squash"
    assert golden_difference(folder, model, processor) > 1e-4
    assert f"{len(set(datasets['valid']['study_id'])):5d} studies" in describe_evaluation(done.evaluation)[0]
    # This untrained model ranks normal studies above abnormal ones.
    assert done.calibration["not_calibrated"] in describe_calibration(done.calibration)[0]
    compared = done.evaluation["comparison"]
    assert (compared["checkpoint"], compared["is_start"], compared["known"]) == ("somebody/start", True, 2)
    difference = done.evaluation["study"]["overall"]["figures"]["auroc"] - compared["auroc"]
    assert compared["study"]["auroc"]["difference"] == pytest.approx(difference)
    assert "than its start, somebody/start" in (verdict := describe_verdict(done.evaluation))
    assert "Its start was trained on 2 of these patients." in verdict


def test_steps_that_the_data_do_not_allow_are_skipped(datasets, folder):
    nothing = datasets["valid"].select([])
    normal = datasets["calib"].filter(lambda row: row["label"] == 0)
    done = finalize_checkpoint(folder, DatasetDict({"calib": normal, "valid": nothing}), cpu=True)
    assert done.evaluation is None
    assert "0 abnormal; each class needs" in done.calibration["not_calibrated"]
    assert "No out-of-distribution detection: the data have no train" in done.skipped[0]
    assert "no valid split" in done.skipped[1]
    assert (folder / "golden.safetensors").exists()
    assert json.loads((folder / "config.json").read_text()).get("study_slope", 1.0) == 1.0
    (folder / "training.json").write_text("{}")
    one_class = DatasetDict({"train": datasets["train"], "calib": nothing, "valid": normal})
    done = finalize_checkpoint(folder, one_class, start=folder, cpu=True)
    assert "too few: 0 studies" in done.calibration["no_operating_points"]
    assert "No out-of-distribution detection" in done.skipped[0]
    assert "valid has no abnormal study" in done.skipped[1]
    assert "auroc not defined" in describe_evaluation(done.evaluation)[0]
    assert "Too few studies to tell whether it is better than guessing" in describe_verdict(done.evaluation)
    assert json.loads((folder / "training.json").read_text())["ood_detection"]["not_fitted"].startswith("too few: ")


def test_differences_are_those_of_the_predictors(rows, evaluated, tmp_path):
    place = {"cpu": True, "cache_dir": evaluated[1]}
    first = shutil.copytree(evaluated[0], tmp_path / "first")
    second = make_checkpoint(tmp_path / "second", make_model(seed=4))
    report = compare_checkpoints(first, second, rows, rows, **place)
    assert json.loads((first / "evaluation.json").read_text()) == json.loads(json.dumps(report))
    assert report["comparison"]["checkpoint"] == "second"
    assert report["against"] == report["comparison"]  # the former name
    assert "minus that of second" in "\n".join(describe_evaluation(report))
    figures = []
    for folder in (first, second):
        predictor, studies = StudyPredictor.from_pretrained(folder, device="cpu"), {}
        for study, label, image in zip(rows["study_id"], rows["label"], rows["image"], strict=True):
            studies.setdefault(study, (label, []))[1].append(np.asarray(image))
        values = [predictor(views, heatmaps=False).probability for _, views in studies.values()]
        _, threshold = predictor.find_threshold()
        figures.append(classification_metrics([label for label, _ in studies.values()], values, threshold))
    for name in ("auroc", "brier", "sensitivity"):
        row = report["comparison"]["study"][name]
        assert row["difference"] == pytest.approx(figures[0][name] - figures[1][name], abs=1e-5)
        assert row["low"] <= row["difference"] <= row["high"]

    few = rows.select([number for number, study in enumerate(rows["study_id"]) if study in rows["study_id"][:60:2]])
    shared = compare_checkpoints(first, second, rows, few, **place)
    assert shared["comparison"]["n"] == len(set(few["study_id"])) < report["comparison"]["n"]
    assert shared["comparison"] == compare_checkpoints(first, second, rows, few, **place)["comparison"]
    assert f"on {shared['comparison']['n']} studies that are new to both" in "\n".join(describe_evaluation(shared))
    with pytest.raises(DatasetError, match="no study is new to both"):
        compare_checkpoints(first, second, rows, rows.select([]), **place)
    make_checkpoint(first, make_model(seed=5))
    with pytest.raises(DatasetError, match="other weights or studies"):
        compare_checkpoints(first, second, rows, rows, **place)
