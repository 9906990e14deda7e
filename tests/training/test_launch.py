import pytest

from mura_hf import DatasetError
from mura_hf.evaluation import describe_estimate
from mura_hf.training import estimate

from .conftest import TINY


def test_reports_data_model_memory_and_time_and_leaves_nothing(phantom_splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = [{"epochs": 2, "patch_size": 32, "batch_size": 8}, {"epochs": 2}]
    report = estimate(phantom_splits, TINY.replace(stages=stages, ema_decay=0.9), cpu=True)
    dev = phantom_splits["dev"]
    assert report["data"]["dev"] == {"studies": len(set(dev["study_id"])), "views": len(dev)}
    model = report["models"]["custom"]
    assert model["parameters"] > 10_000
    patches, views = model["stages"]
    assert (patches["epochs"], views["epochs"]) == (2, 2)
    assert views["steps"] == len(phantom_splits["train"]) // 16
    seconds = sum(stage["epochs"] * stage["steps"] * stage["seconds_a_step"] for stage in (patches, views))
    assert report["seconds"] == pytest.approx(seconds, abs=0.51)
    assert report["peak_megabytes"] > 100
    assert not list(tmp_path.iterdir())
    assert "Patches of 32: 2 epochs of" in "\n".join(describe_estimate(report))


def test_members_are_measured_one_by_one(phantom_splits):
    part = phantom_splits["train"]["body_part"][0]
    one = phantom_splits.filter(lambda this: this == part, input_columns="body_part")
    both = type(one)({**one, "dev": one["train"]})
    assert len(estimate(both, TINY.replace(family="specialized"), cpu=True)["models"]) == 1
    with pytest.raises(DatasetError, match="dev needs normal and abnormal"):
        estimate(type(one)({**one, "dev": one["dev"].select([0])}), TINY, cpu=True)
