import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mura_hf import DatasetError, MuraForStudyClassification, load_mura
from mura_hf.assessment import calibrate_checkpoint, evaluate_checkpoint


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=0.1, calib_fraction=0.4)["calib"]


def test_config_is_calibrated_and_weights_stay(rows, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    fit = calibrate_checkpoint(folder, rows, cpu=True)
    config = json.loads((folder / "config.json").read_text())
    for name in ("temperature", "study_slope", "study_intercept"):
        assert config[name] == fit[name]
    assert fit["brier_after"] < fit["brier_before"]
    before, after = (load_file(place / "model.safetensors") for place in (checkpoint, folder))
    assert all(torch.equal(before[name], after[name]) for name in before)
    # A second fit starts afresh, so it finds the same.
    assert calibrate_checkpoint(folder, rows, cpu=True) == pytest.approx(fit)


def test_evaluation_reports_calibrated_studies(rows, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    fit = calibrate_checkpoint(folder, rows, cpu=True)
    report = evaluate_checkpoint(folder, rows, "calib", cpu=True)
    assert report["study"]["overall"]["figures"]["brier"] == pytest.approx(fit["brier_after"], abs=1e-4)
    assert MuraForStudyClassification.from_pretrained(folder).config.study_slope == fit["study_slope"]


def test_one_class_is_refused(rows, checkpoint):
    normal = rows.filter(lambda row: row["label"] == 0)
    with pytest.raises(DatasetError, match="calib needs normal and abnormal"):
        calibrate_checkpoint(checkpoint, normal, cpu=True)
