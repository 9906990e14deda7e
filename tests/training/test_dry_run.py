from dataclasses import replace

import pytest

from mura_hf import DatasetError
from mura_hf.training import PatchStage, dry_run

from .conftest import TINY


def test_tells_data_model_memory_and_time_and_leaves_nothing(phantom_splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = replace(TINY, patches=PatchStage(epochs=2, size=32, batch_size=8), ema_decay=0.9)
    told = dry_run(phantom_splits, recipe, cpu=True)
    assert told["data"]["dev"] == {
        "studies": len(set(phantom_splits["dev"]["study_id"])),
        "views": len(phantom_splits["dev"]),
    }
    model = told["models"]["custom"]
    assert model["parameters"] == model["trained"] > 10_000
    assert model["state_megabytes"] == pytest.approx(5 * 4 * model["parameters"] / 2**20, abs=0.06)
    patches, views = model["stages"]
    assert (patches["epochs"], views["epochs"]) == (2, 2)
    assert views["steps"] == len(phantom_splits["train"]) // 16
    assert len(views["losses"]) == 3
    planned = sum(
        stage["epochs"] * (stage["steps"] * stage["seconds_a_step"] + stage["seconds_of_dev"])
        for stage in (patches, views)
    )
    assert told["seconds"] == pytest.approx(planned, abs=0.51)
    assert told["peak_megabytes"] > 100
    assert not list(tmp_path.iterdir())


def test_members_are_looked_at_one_by_one(phantom_splits):
    recipe = replace(TINY, family="specialized")
    part = phantom_splits["train"]["body_part"][0]
    one = phantom_splits.filter(lambda this: this == part, input_columns="body_part")
    both = type(one)({**one, "dev": one["train"]})
    assert len(dry_run(both, recipe, cpu=True)["models"]) == 1
    with pytest.raises(DatasetError, match="dev needs normal and abnormal"):
        dry_run(type(one)({**one, "dev": one["dev"].select([0])}), TINY, cpu=True)
