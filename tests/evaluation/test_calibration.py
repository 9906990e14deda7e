import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mura_hf import DatasetError
from mura_hf.evaluation import calibrate_checkpoint, evaluate_checkpoint
from mura_hf.metrics import OPERATING_POINTS


def test_config_is_calibrated_and_evaluations_use_it(datasets, checkpoint, tmp_path):
    folder, rows, place = tmp_path / "checkpoint", datasets["calib"], {"cpu": True, "cache_dir": tmp_path / "cache"}
    shutil.copytree(checkpoint, folder)
    (folder / "training.json").write_text(json.dumps({"seconds": 1.5}))
    fit = calibrate_checkpoint(folder, rows, **place)
    assert json.loads((folder / "training.json").read_text()) == {"seconds": 1.5, "calibration": fit}
    config = json.loads((folder / "config.json").read_text())
    for name in ("temperature", "study_slope", "study_intercept", "operating_points"):
        assert config[name] == fit[name]
    assert list(fit["operating_points"]) == list(OPERATING_POINTS)
    for name in ("brier", "cross_entropy"):
        assert fit["after"][name] < fit["before"][name]
    before, after = (load_file(place / "model.safetensors") for place in (checkpoint, folder))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert calibrate_checkpoint(folder, rows, **place) == fit  # a second fit starts afresh

    report = evaluate_checkpoint(folder, rows, "calib", **place)
    assert report["study"]["overall"]["figures"]["brier"] == pytest.approx(fit["after"]["brier"], abs=1e-4)
    points = report["operating_points"]
    assert {name: point["threshold"] for name, point in points.items()} == fit["operating_points"]
    assert points["sensitivity_95"]["groups"]["overall"]["figures"]["sensitivity"] >= 0.95
    assert points["specificity_95"]["groups"]["overall"]["figures"]["specificity"] >= 0.95
    for point in points.values():
        parts = [row["confusion"] for name, row in point["groups"].items() if name != "overall"]
        assert np.sum(parts, axis=0).tolist() == point["groups"]["overall"]["confusion"]
    for when in ("before", "after"):
        effect = report["calibration_effect"][when]
        assert {name: effect[name] for name in fit[when]} == pytest.approx(fit[when], abs=1e-6)


def test_one_class_is_refused(datasets, folder):
    normal = datasets["calib"].filter(lambda row: row["label"] == 0)
    with pytest.raises(DatasetError, match="calib needs normal and abnormal"):
        calibrate_checkpoint(folder, normal, cpu=True)
    assert not (folder / "training.json").exists()
