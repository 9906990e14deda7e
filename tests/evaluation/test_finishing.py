import json
import shutil

import numpy as np
import pytest
from datasets import DatasetDict

from mura_hf import MuraForImageClassification, MuraImageProcessor, load_mura
from mura_hf.evaluation import describe_evaluation, finish_checkpoint
from mura_hf.models import golden_difference


@pytest.fixture(scope="module")
def datasets(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=0.1, calib_fraction=0.6)


@pytest.fixture
def folder(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def test_calibrated_then_measured(datasets, folder, monkeypatch):
    monkeypatch.setenv("RANK", "0")  # what is left of a group of processes that have parted
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = finish_checkpoint(folder, datasets, data={"key": "phantoms"}, cpu=True)
    config = json.loads((folder / "config.json").read_text())
    assert done.calibration["study_slope"] == config["study_slope"]
    assert done.evaluation["calibration"]["study_slope"] == config["study_slope"]
    assert json.loads((folder / "evaluation.json").read_text())["split"] == "valid"
    assert done.left_out == []
    assert (folder / "in_distribution.safetensors").exists()
    model = MuraForImageClassification.from_pretrained(folder)
    processor = MuraImageProcessor.from_pretrained(folder)
    assert golden_difference(folder, model, processor) < 1e-5
    processor.resize_mode = "squash"
    assert golden_difference(folder, model, processor) > 1e-4
    assert f"{len(set(datasets['valid']['study_id'])):5d} studies" in describe_evaluation(done.evaluation)[0]


def test_what_the_data_do_not_allow_is_left_out_and_said(datasets, folder):
    nothing = datasets["valid"].select(np.arange(0))
    normal = datasets["calib"].filter(lambda row: row["label"] == 0)
    done = finish_checkpoint(folder, DatasetDict({"calib": normal, "valid": nothing}), cpu=True)
    assert (done.calibration, done.evaluation) == (None, None)
    assert "calib has no abnormal study" in done.left_out[0]
    assert "It cannot tell when not to answer: the data have no train" in done.left_out[1]
    assert "no valid" in done.left_out[2]
    assert json.loads((folder / "config.json").read_text()).get("study_slope", 1.0) == 1.0
    done = finish_checkpoint(folder, DatasetDict({"calib": nothing, "valid": normal}), cpu=True)
    assert "no normal and no abnormal study" in done.left_out[0]
    assert "It cannot tell when not to answer" in done.left_out[1]
    assert "valid has no abnormal study" in done.left_out[2]
    assert "auroc not defined" in describe_evaluation(done.evaluation)[0]
