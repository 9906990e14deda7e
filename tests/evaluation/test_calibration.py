import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mura_hf import DatasetError, MuraForStudyClassification, load_mura
from mura_hf.evaluation import calibrate_checkpoint, evaluate_checkpoint
from mura_hf.metrics import OPERATING_POINTS


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=0.1, calib_fraction=0.4)["calib"]


def test_config_is_calibrated_and_weights_stay(rows, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    fit = calibrate_checkpoint(folder, rows, cpu=True)
    config = json.loads((folder / "config.json").read_text())
    for name in ("temperature", "study_slope", "study_intercept", "operating_points"):
        assert config[name] == fit[name]
    assert list(fit["operating_points"]) == list(OPERATING_POINTS)
    assert fit["after"]["brier"] < fit["before"]["brier"]
    assert fit["after"]["cross_entropy"] < fit["before"]["cross_entropy"]
    before, after = (load_file(place / "model.safetensors") for place in (checkpoint, folder))
    assert all(torch.equal(before[name], after[name]) for name in before)
    # A second fit starts afresh, so it finds the same.
    assert calibrate_checkpoint(folder, rows, cpu=True) == fit
    assert not (folder / "training.json").exists()


def test_it_is_told_in_the_record_of_training(rows, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (folder / "training.json").write_text(json.dumps({"seconds": 1.5}))
    fit = calibrate_checkpoint(folder, rows, cpu=True)
    assert json.loads((folder / "training.json").read_text()) == {"seconds": 1.5, "calibration": fit}


def test_operating_points_are_those_of_the_calibrated_studies(rows, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    fit = calibrate_checkpoint(folder, rows, cpu=True)
    report = evaluate_checkpoint(folder, rows, "calib", cpu=True)
    found = report["operating_points"]
    assert {name: point["threshold"] for name, point in found.items()} == fit["operating_points"]
    assert found["sensitivity_95"]["groups"]["overall"]["figures"]["sensitivity"] >= 0.95
    assert found["specificity_95"]["groups"]["overall"]["figures"]["specificity"] >= 0.95
    for point in found.values():
        parts = [row["confusion"] for name, row in point["groups"].items() if name != "overall"]
        assert np.sum(parts, axis=0).tolist() == point["groups"]["overall"]["confusion"]
    effect = report["calibration_effect"]
    assert {name: effect["before"][name] for name in fit["before"]} == pytest.approx(fit["before"], abs=1e-6)
    assert {name: effect["after"][name] for name in fit["after"]} == pytest.approx(fit["after"], abs=1e-6)


def test_evaluation_reports_calibrated_studies(rows, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    fit = calibrate_checkpoint(folder, rows, cpu=True)
    report = evaluate_checkpoint(folder, rows, "calib", cpu=True)
    assert report["study"]["overall"]["figures"]["brier"] == pytest.approx(fit["after"]["brier"], abs=1e-4)
    assert MuraForStudyClassification.from_pretrained(folder).config.study_slope == fit["study_slope"]


def test_one_class_is_refused(rows, checkpoint):
    normal = rows.filter(lambda row: row["label"] == 0)
    with pytest.raises(DatasetError, match="calib needs normal and abnormal"):
        calibrate_checkpoint(checkpoint, normal, cpu=True)
