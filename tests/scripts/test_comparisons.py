import json

import numpy as np
import pytest
import yaml
from comparisons import answer_otherwise, compare_recipes, plot_comparison, take_studies, write_comparison_table
from sklearn.metrics import roc_auc_score
from transformers import AutoConfig

from mura_hf import DatasetError, load_mura
from mura_hf.metrics import paired_bootstrap

TINY = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 16, 24, 32]},
    "pretrained": False,
    "image_size": 64,
    "epochs": 1,
    "batch_size": 16,
    "learning_rate": 0.001,
}


@pytest.fixture(scope="module")
def datasets(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=0.3, calib_fraction=0.1)


@pytest.fixture(scope="module")
def compared(datasets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    (folder / "one.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "other.yaml").write_text(
        yaml.safe_dump({"extends": "one.yaml", "level": "study", "batch_size": 6, "model": {"study_pooling": "max"}})
    )
    pairs = [(str(folder / "other.yaml"), str(folder / "one.yaml"))]
    options = {
        "seeds": [0, 1], "data_description": {"name": "phantoms"}, "trained_on_phantoms": True, "cpu": True,
        "alone": ["hardware"],
    }  # fmt: skip
    report = compare_recipes(datasets, pairs, folder / "runs", **options)
    return folder / "runs", pairs, options, report


def test_differences_are_those_of_the_answers(compared, datasets):
    folder, _, _, report = compared
    labels, patients, findings = {}, {}, {}
    for row in datasets["valid"].remove_columns("image"):
        labels[row["study_id"]], patients[row["study_id"]] = row["label"], row["patient_id"]
        findings[row["study_id"]] = row["finding"]
    answers = {}
    for name in ("one", "other"):
        runs = [np.load(folder / f"{name}-{seed}" / "valid_studies.npz") for seed in (0, 1)]
        assert [list(run["study_ids"]) for run in runs] == [list(labels)] * 2
        answers[name] = np.stack([run["probabilities"] for run in runs])
        aurocs = [roc_auc_score(list(labels.values()), run) for run in answers[name]]
        assert report["recipes"][name]["all"]["auroc_by_seed"] == pytest.approx(aurocs)
        assert len(report["recipes"][name]["seconds"]) == 2
    assert not np.allclose(answers["one"][0], answers["one"][1])  # seeds differ
    for group, rows in {
        "all": np.ones(len(labels), bool),
        "hardware": np.array([findings[study] == "hardware" or not label for study, label in labels.items()]),
    }.items():
        truth, groups = np.array(list(labels.values()))[rows], np.array(list(patients.values()))[rows]
        expected = paired_bootstrap(truth, answers["other"][:, rows], answers["one"][:, rows], groups)
        assert report["pairs"]["other - one"][group]["auroc"] == expected["auroc"]
    assert json.loads((folder / "comparison.json").read_text()) == report


def test_what_stands_is_not_trained_again(compared, datasets):
    folder, pairs, options, report = compared
    weights = folder / "one-0" / "checkpoint" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (folder / "other-1" / "finished.json").unlink()  # as if it had been cut off
    assert compare_recipes(datasets, pairs, folder, **options)["pairs"] == report["pairs"]
    assert weights.stat().st_mtime_ns == before
    assert (folder / "other-1" / "finished.json").is_file()


def test_a_plot_of_it(compared):
    folder, _, _, report = compared
    assert plot_comparison(report, folder).stat().st_size > 5000


def test_a_table_of_it(tmp_path):
    aurocs = {"auroc": 0.8761, "auroc_by_seed": [0.87, 0.8822]}
    row = {"difference": -0.0214, "low": -0.05, "high": 0.0004}
    figures = {"all": {"auroc": row}, "subtle_fracture": {"auroc": {**row, "difference": 0.011}}}
    report = {"recipes": {"one": {"all": aurocs}, "other": {"all": aurocs}}, "pairs": {"other - one": figures}}
    assert write_comparison_table(report, tmp_path).read_text().splitlines() == [
        "| first against second | first | second | difference | subtle fracture apart |",
        "| --- | --- | --- | --- | --- |",
        "| `other` against `one` | .876 (.870, .882) | .876 (.870, .882) | -.021 (-.050 to +.000) | "
        "+.011 (-.050 to +.000) |",
    ]


def test_kinds_that_are_not_there_are_refused(datasets, tmp_path):
    with pytest.raises(DatasetError, match="'gout'"):
        compare_recipes(datasets, [], tmp_path, data_description={"name": "phantoms"}, alone=["gout"])


def test_some_studies_are_taken_with_their_patients(datasets):
    rows = datasets["train"]
    some = take_studies(rows, 10, seed=1)
    assert 10 <= len(set(some["study_id"])) < len(set(rows["study_id"]))
    kept = set(some["patient_id"])
    assert len(some) == sum(patient in kept for patient in rows["patient_id"])
    assert some["study_id"] == take_studies(rows, 10, seed=1)["study_id"]
    assert kept != set(take_studies(rows, 10, seed=2)["patient_id"])


def test_the_same_weights_that_answer_otherwise(compared, datasets, tmp_path):
    folder, _, options, _ = compared
    one = {**options, "seeds": [0], "alone": ()}
    answer_otherwise(folder, "one", "flipped", seeds=[0], test_time_flip=True)
    made = folder / "flipped-0" / "checkpoint"
    assert AutoConfig.from_pretrained(made).test_time_flip
    before = (made / "config.json").stat().st_mtime_ns
    answer_otherwise(folder, "one", "flipped", seeds=[0], test_time_flip=True)
    assert (made / "config.json").stat().st_mtime_ns == before
    pairs = [("flipped", str(folder.parent / "one.yaml"))]
    report = compare_recipes(datasets, pairs, folder, report_dir=tmp_path / "report", **one)
    assert json.loads((tmp_path / "report" / "comparison.json").read_text()) == report
    runs = [np.load(folder / f"{name}-0" / "valid_studies.npz")["probabilities"] for name in ("one", "flipped")]
    assert 1e-6 < np.abs(runs[0] - runs[1]).max() < 0.5
    assert report["pairs"]["flipped - one"]["all"]["auroc"]["difference"] == pytest.approx(
        report["recipes"]["flipped"]["all"]["auroc"] - report["recipes"]["one"]["all"]["auroc"]
    )
