import json

import numpy as np
import pytest
import yaml
from compare import (
    compare_configs,
    comparison_tables,
    predict_studies,
    shift_threshold,
)

from mura_hf import load_mura
from mura_hf.metrics import paired_comparison
from mura_hf.training import FINISHED_FILE

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


def test_differences_are_those_of_the_predictions(compared, datasets):
    folder, _, _, report = compared
    studies = {row["study_id"]: row for row in datasets["valid"].remove_columns("image")}
    labels = np.array([row["label"] for row in studies.values()])
    patients = np.array([row["patient_id"] for row in studies.values()])
    hardware = np.array([row["finding"] == "hardware" or not row["label"] for row in studies.values()])
    found = {
        name: np.stack([predict_studies(folder / f"{name}-{seed}", datasets["valid"], cpu=True) for seed in (0, 1)])
        for name in ("one", "other")
    }
    for group, rows in {"all": np.ones(len(labels), bool), "hardware": hardware}.items():
        expected = paired_comparison(labels[rows], found["other"][:, rows], found["one"][:, rows], patients[rows])
        assert report["pairs"]["other - one"][group]["auroc"] == expected["auroc"]
    assert json.loads((folder / "comparison.json").read_text()) == report
    assert (folder / "comparison.md").read_text() == comparison_tables(report)


def test_finished_runs_are_not_trained_again(compared, datasets):
    folder, pairs, options, report = compared
    weights = folder / "one-0" / "checkpoint" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (folder / "other-1" / FINISHED_FILE).unlink()  # as if it had been interrupted
    assert compare_configs(datasets, pairs, folder, **options)["pairs"] == report["pairs"]
    assert weights.stat().st_mtime_ns == before
    assert (folder / "other-1" / FINISHED_FILE).is_file()


def test_as_many_are_called_abnormal_as_are():
    rng = np.random.default_rng(5)
    labels = rng.random(400) < 0.2
    reference, probabilities = rng.beta(2, 9, 400), rng.beta(2, 9, 300)
    assert (shift_threshold(reference, reference, labels) > 0.5).sum() == pytest.approx(labels.sum(), abs=1)
    shifted = shift_threshold(probabilities, reference, labels)
    assert (np.argsort(shifted) == np.argsort(probabilities)).all()
    threshold = np.quantile(reference, 1 - labels.mean())
    assert ((shifted > 0.5) == (probabilities > threshold)).all()
