import json

import numpy as np
import pytest
import yaml
from compare import (
    change_predictions,
    compare_configs,
    comparison_tables,
    main,
    predict_studies,
    shift_threshold,
    take_studies,
)
from comparisons import FILMS
from harness import CONFIGS
from sklearn.metrics import roc_auc_score
from transformers import AutoConfig

from mura_hf import DatasetError, load_mura
from mura_hf.data import load_fracatlas
from mura_hf.metrics import classification_metrics, confidence_intervals, paired_comparison
from mura_hf.training import FINISHED_FILE, load_config

from ..checkpoints import make_checkpoint, make_model
from ..open_trees import write_fracatlas

TINY = {
    "backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 16, 24, 32]}, "pretrained": False, "image_size": 48,
    "epochs": 1, "batch_size": 16, "learning_rate": 0.001, "body_part_head": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def datasets(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=0.3, calib_fraction=0.1)


@pytest.fixture(scope="module")
def compared(datasets, tmp_path_factory):
    """Two configs with two seeds each, on phantoms."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "one.yaml").write_text(yaml.safe_dump(TINY))
    other = {"extends": "one.yaml", "level": "study", "batch_size": 6, "model_kwargs": {"study_pooling": "max"}}
    (folder / "other.yaml").write_text(yaml.safe_dump(other))
    pairs = [(str(folder / "other.yaml"), str(folder / "one.yaml"))]
    options = {
        "seeds": [0, 1], "data_description": {"name": "phantoms"}, "trained_on_phantoms": True, "cpu": True,
        "findings": ["hardware"],
    }  # fmt: skip
    report = compare_configs(datasets, pairs, folder / "runs", **options)
    return folder / "runs", pairs, options, report


@pytest.fixture(scope="module")
def on_films(tmp_path_factory):
    """Finished runs of two models on FracAtlas, compared by groups of regions with thresholds from calib."""
    folder = tmp_path_factory.mktemp("films")
    write_fracatlas(folder / "data", n=120)
    for seed, name in enumerate(("plain", "boxes")):
        run = folder / "runs" / f"{name}-0"
        (make_checkpoint(run / "checkpoint", make_model(seed=seed)) / "training.json").write_text('{"seconds": 1}')
        (run / FINISHED_FILE).write_text("{}")
    datasets = load_fracatlas(folder / "data", dev_fraction=0.0, calib_fraction=0.3, valid_fraction=0.4)
    report = compare_configs(
        datasets, [("boxes", "plain")], folder / "runs", seeds=[0], data_description={"name": "films"}, cpu=True,
        regions={"hand": ["hand"], "upper limb": ["hand", "shoulder"]}, match_prevalence=True,
    )  # fmt: skip
    return folder / "runs", datasets, report


def test_differences_are_those_of_the_predictions(compared, datasets):
    folder, _, _, report = compared
    studies = {row["study_id"]: row for row in datasets["valid"].remove_columns("image")}
    labels = np.array([row["label"] for row in studies.values()])
    patients = np.array([row["patient_id"] for row in studies.values()])
    hardware = np.array([row["finding"] == "hardware" or not row["label"] for row in studies.values()])
    found = {}
    for name in ("one", "other"):
        runs = [predict_studies(folder / f"{name}-{seed}", datasets["valid"], cpu=True) for seed in (0, 1)]
        found[name] = np.stack(runs)
        aurocs = [roc_auc_score(labels, run) for run in runs]
        assert report["recipes"][name]["all"]["auroc_by_seed"] == pytest.approx(aurocs)
        assert len(report["recipes"][name]["seconds"]) == 2
    assert not np.allclose(*found["one"])  # seeds differ
    for group, rows in {"all": np.ones(len(labels), bool), "hardware": hardware}.items():
        expected = paired_comparison(labels[rows], found["other"][:, rows], found["one"][:, rows], patients[rows])
        assert report["pairs"]["other - one"][group]["auroc"] == expected["auroc"]
    assert json.loads((folder / "comparison.json").read_text()) == report
    assert (folder / "comparison.md").read_text() == comparison_tables(report)
    assert (folder / "comparison.png").stat().st_size > 5000


def test_finished_runs_are_not_trained_again(compared, datasets):
    folder, pairs, options, report = compared
    weights = folder / "one-0" / "checkpoint" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (folder / "other-1" / FINISHED_FILE).unlink()  # as if it had been interrupted
    assert compare_configs(datasets, pairs, folder, **options)["pairs"] == report["pairs"]
    assert weights.stat().st_mtime_ns == before
    assert (folder / "other-1" / FINISHED_FILE).is_file()


def test_the_same_weights_with_other_predictions(compared, datasets, tmp_path):
    folder, _, options, _ = compared
    change_predictions(folder, "one", "flipped", seeds=[0], test_time_flip=True)
    made = folder / "flipped-0" / "checkpoint"
    assert AutoConfig.from_pretrained(made).test_time_flip
    before = (made / "config.json").stat().st_mtime_ns
    change_predictions(folder, "one", "flipped", seeds=[0], test_time_flip=True)
    assert (made / "config.json").stat().st_mtime_ns == before
    pairs = [("flipped", str(folder.parent / "one.yaml"))]
    options = {**options, "seeds": [0], "findings": ()}
    report = compare_configs(datasets, pairs, folder, report_dir=tmp_path / "report", **options)
    assert json.loads((tmp_path / "report" / "comparison.json").read_text()) == report
    runs = [predict_studies(folder / f"{name}-0", datasets["valid"], cpu=True) for name in ("one", "flipped")]
    assert 1e-6 < np.abs(runs[0] - runs[1]).max() < 0.5
    assert report["pairs"]["flipped - one"]["all"]["auroc"]["difference"] == pytest.approx(
        report["recipes"]["flipped"]["all"]["auroc"] - report["recipes"]["one"]["all"]["auroc"]
    )


def test_films_are_compared_by_region_with_thresholds_from_calib(on_films):
    folder, datasets, report = on_films
    labels, patients = (np.asarray(datasets["valid"][name]) for name in ("label", "patient_id"))
    hands = np.asarray(["hand" in region for region in datasets["valid"]["region"]])
    run, calib = (predict_studies(folder / "boxes-0", datasets[split], cpu=True) for split in ("valid", "calib"))
    run = shift_threshold(run, calib, np.asarray(datasets["calib"]["label"]))
    hand = report["recipes"]["boxes"]["hand"]
    assert (hand["n"], hand["n_abnormal"]) == (hands.sum(), labels[hands].sum())
    assert hand["auroc"] == pytest.approx(roc_auc_score(labels[hands], run[hands]))
    assert hand["kappa"] == pytest.approx(classification_metrics(labels[hands], run[hands])["kappa"])
    assert hand["intervals"] == {} == confidence_intervals(labels[hands], run[hands], patients[hands])  # too few
    assert report["recipes"]["boxes"]["upper limb"]["n"] == len(labels)
    tables = comparison_tables(report)
    assert f"hand ({hand['n_abnormal']} of {hand['n']})" in tables
    difference = report["pairs"]["boxes - plain"]["all"]["auroc"]["difference"]
    assert f"| boxes - plain | {difference:+.3f}".replace("0.", ".") in tables


def test_groups_that_do_not_exist_are_refused(on_films, datasets, tmp_path):
    for data, groups, message in (
        (datasets, {"findings": ["gout"]}, "'gout'"),
        (on_films[1], {"regions": {"leg": ["leg"]}}, "of leg"),
        (datasets, {"regions": {"leg": ["leg"]}}, "have no regions"),
    ):
        with pytest.raises(DatasetError, match=message):
            compare_configs(data, [], tmp_path, data_description={}, **groups)


def test_studies_are_taken_with_all_of_a_patient(datasets):
    rows = datasets["train"]
    some = take_studies(rows, 10, seed=1)
    assert 10 <= len(set(some["study_id"])) < len(set(rows["study_id"]))
    kept = set(some["patient_id"])
    assert len(some) == sum(patient in kept for patient in rows["patient_id"])
    assert some["study_id"] == take_studies(rows, 10, seed=1)["study_id"]
    assert kept != set(take_studies(rows, 10, seed=2)["patient_id"])


def test_as_many_are_called_abnormal_as_are():
    rng = np.random.default_rng(5)
    labels = rng.random(400) < 0.2
    reference, probabilities = rng.beta(2, 9, 400), rng.beta(2, 9, 300)
    assert (shift_threshold(reference, reference, labels) > 0.5).sum() == pytest.approx(labels.sum(), abs=1)
    shifted = shift_threshold(probabilities, reference, labels)
    assert (np.argsort(shifted) == np.argsort(probabilities)).all()
    threshold = np.quantile(reference, 1 - labels.mean())
    assert ((shifted > 0.5) == (probabilities > threshold)).all()


def test_configs_of_the_film_comparison_differ_only_in_what_is_compared():
    configs = {name: load_config(name, [CONFIGS]) for name in {name for pair in FILMS for name in pair}}
    assert len({json.dumps(config.split_options()) for config in configs.values()}) == 1
    for name, config in configs.items():
        assert bool(config.training.region_weight) == (name in ("film_small", "film_boxes"))
        assert (config.model.init_from == "mura-phantom") == (name in ("film_small", "film_phantom"))
        assert config.model.backbone_kwargs == configs["film_small"].model.backbone_kwargs


def test_the_command_refuses_what_is_not_a_pair(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--pairs", "p_base", "--data_dir", "data", "--output_dir", "out"])
    assert "'p_base' is not a pair" in capsys.readouterr().err
