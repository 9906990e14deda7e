import json

from datasets import DatasetDict

from mura_hf import MuraForImageClassification, MuraImageProcessor, load_mura
from mura_hf.evaluation import describe_calibration, describe_evaluation, finalize_checkpoint
from mura_hf.models import golden_difference


def test_calibrated_then_evaluated(phantom_tree, folder, monkeypatch):
    datasets = load_mura(phantom_tree, dev_fraction=0.1, calib_fraction=0.6)
    monkeypatch.setenv("RANK", "0")  # left over from a process group that has ended
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = finalize_checkpoint(folder, datasets, data={"key": "phantoms"}, cpu=True)
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
    assert f"temperature {config['temperature']:g}" in describe_calibration(done.calibration)[0]


def test_steps_that_the_data_do_not_allow_are_skipped(datasets, folder):
    nothing = datasets["valid"].select([])
    normal = datasets["calib"].filter(lambda row: row["label"] == 0)
    done = finalize_checkpoint(folder, DatasetDict({"calib": normal, "valid": nothing}), cpu=True)
    assert (done.calibration, done.evaluation) == (None, None)
    assert "calib has no abnormal study" in done.skipped[0]
    assert "No out-of-distribution detection: the data have no train" in done.skipped[1]
    assert "no valid split" in done.skipped[2]
    assert (folder / "golden.safetensors").exists()
    assert json.loads((folder / "config.json").read_text()).get("study_slope", 1.0) == 1.0
    done = finalize_checkpoint(folder, DatasetDict({"calib": nothing, "valid": normal}), cpu=True)
    assert "no normal and no abnormal study" in done.skipped[0]
    assert "No out-of-distribution detection" in done.skipped[1]
    assert "valid has no abnormal study" in done.skipped[2]
    assert "auroc not defined" in describe_evaluation(done.evaluation)[0]
