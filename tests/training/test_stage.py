from dataclasses import replace

import pytest

from mura_hf import ConfigError, DatasetError, load_mura
from mura_hf.data import GroupSampler
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import TrainingConfig, build_processor
from mura_hf.training.launch import check_data
from mura_hf.training.stage import make_stages

from .conftest import TINY

GROWING = TINY.replace(
    stages=[
        {"epochs": 2, "patch_size": 32, "batch_size": 8},
        {"epochs": 3, "patch_size": 48, "batch_size": 4, "learning_rate": 5e-4},
        {"trains": "all", "epochs": 1},
    ]
)


def test_patches_grow_from_stage_to_stage(phantom_splits):
    rows = phantom_splits["train"]
    first, second, whole = make_stages(GROWING, rows, build_processor(GROWING), None)
    assert [(stage.name, stage.first_epoch, stage.evaluated_on_dev) for stage in (first, second, whole)] == [
        ("patches of 32", 0, False), ("patches of 48", 2, False), ("all", 5, True),
    ]  # fmt: skip
    assert (second.config.training.batch_size, second.config.training.learning_rate) == (4, 5e-4)
    abnormal = next(n for n, boxes in enumerate(rows["boxes"]) if boxes)
    sides = [stage.views[abnormal]["pixel_values"].shape[-1] for stage in (first, second, whole)]
    assert sides == [32, 48, 64]
    # Abnormal views without a box are left out, of these stages only.
    assert list(second.rows) == list(first.rows)
    assert all(rows["boxes"][n] or not rows["label"][n] for n in second.rows)
    assert len(whole.rows) == len(rows)


def test_patches_and_the_region_loss_need_boxes(phantom_splits):
    bare = phantom_splits.remove_columns("boxes")
    for config in (GROWING, TINY.replace(region_weight=0.5)):
        with pytest.raises(DatasetError, match="have no boxes"):
            check_data(bare, config)
    check_data(bare, TINY)
    normal = phantom_splits["dev"].filter(lambda label: label == 0, input_columns="label")
    with pytest.raises(DatasetError, match="dev needs normal and abnormal"):
        check_data(type(phantom_splits)({**phantom_splits, "dev": normal}), TINY)


def test_twins_share_a_batch_and_several_processes_get_batches(tmp_path):
    tree = write_phantom_mura(tmp_path / "tree", 20, seed=2, size=48, counterfactuals=True, progress=False)
    rows = load_mura(tree, dev_fraction=0.2, calib_fraction=0.1)["train"]
    (views,) = make_stages(TINY, rows, build_processor(TINY), None)
    order = list(views.sampler)
    twins = [rows["twin"][n] for n in order]
    assert sorted(order) == list(range(len(rows)))
    pairs = [n for n in range(len(order) - 1) if twins[n] == twins[n + 1]]
    assert len(pairs) == len(twins) - len(set(twins)) > 5
    assert all(rows["label"][order[n]] != rows["label"][order[n + 1]] for n in pairs)
    # One batch and a bit: with two processes, dropping incomplete batches would leave nothing.
    few = replace(views, rows=range(20), sampler=GroupSampler(None, 20))
    assert len(few.loader(0, 1)) == 1
    assert len(few.loader(0, 2)) == 2


def test_a_fusenet_without_stages_is_not_trained():
    config = TrainingConfig().replace(family="fusenet", pretrained=False)
    with pytest.raises(ConfigError, match="give the stages global, local and fusion"):
        make_stages(config, None, None, None)
