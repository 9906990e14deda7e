from dataclasses import replace

import pytest

from mura_hf import DatasetError
from mura_hf.training import load_recipe
from mura_hf.training.building import build_processor
from mura_hf.training.loop import check_data
from mura_hf.training.recipe_parts import PatchStage, TrainingStage
from mura_hf.training.recipe_reading import with_epochs
from mura_hf.training.stages import make_stages

from .conftest import TINY

GROWING = replace(
    TINY,
    patches=PatchStage(epochs=2, size=32, batch_size=8),
    stages=[
        TrainingStage("all", epochs=3, patch_size=48, batch_size=4, learning_rate=5e-4),
        TrainingStage("all", epochs=1),
    ],
)


def test_patches_grow_from_stage_to_stage(phantom_splits):
    rows = phantom_splits["train"]
    first, second, whole = make_stages(GROWING, rows, build_processor(GROWING), None)
    assert [(stage.name, stage.first_epoch, stage.judged) for stage in (first, second, whole)] == [
        ("patches", 0, False), ("patches of 48", 2, False), ("all", 5, True),
    ]  # fmt: skip
    assert (second.recipe.batch_size, second.recipe.learning_rate) == (4, 5e-4)
    abnormal = next(n for n, boxes in enumerate(rows["boxes"]) if boxes)
    sides = [stage.views[abnormal]["pixel_values"].shape[-1] for stage in (first, second, whole)]
    assert sides == [32, 48, 64]
    # What a patch could not show is left out, of these stages only.
    assert list(second.rows) == list(first.rows)
    assert all(rows["boxes"][n] or not rows["label"][n] for n in second.rows)
    assert len(whole.rows) == len(rows)


def test_another_number_of_epochs_is_that_of_whole_views():
    assert [stage.epochs for stage in with_epochs(GROWING, 7).stages] == [3, 7]


def test_patches_need_boxes(phantom_splits):
    bare = phantom_splits.remove_columns("boxes")
    recipe = replace(GROWING, patches=PatchStage())
    with pytest.raises(DatasetError, match="have no boxes"):
        check_data(bare, recipe)
    check_data(bare, replace(recipe, stages=[]))


def test_recipes_of_films_end_on_whole_films():
    for name in ("film", "film_boxes"):
        sizes = [stage.patch_size for stage in load_recipe(name).stages]
        assert sizes[-1] is None
        assert sizes[0] > load_recipe(name).patches.size
