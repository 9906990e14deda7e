import json
import shlex
from dataclasses import replace

import pytest

from mura_hf.hub.training_section import _OF_THE_BASE, training_command
from mura_hf.training import change_recipe, load_recipe
from mura_hf.training.fine_tuning import take_over

PLACE = {"data": {"key": "mura", "body_parts": "all"}, "processes": 1, "device": "cuda"}


def record(recipe, **more):
    return json.loads(json.dumps({**PLACE, "recipe": recipe.to_dict(), **more}))


def settings(command):
    words = shlex.split(command)
    if "--set" not in words:
        return []
    rest = words[words.index("--set") + 1 :]
    return rest[: next(number for number, word in enumerate(rest) if word.startswith("--"))]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mura_paper", []),
        ("mura_paper", ["learning_rate=5e-5", "augmentation.rotation=10", "model.head_layers=[256]"]),
        ("film", ["stages.1.epochs=2", "patches.augmentation.flip=0", "model.study_pooling=max", "patches.size=96"]),
        ("film", ["stages=[]", "init_from=null", "backbone_kwargs={}"]),
        ("film", ["stages=[{trains: all, epochs: 2, learning_rate: 0.00005}]", "family=classifier"]),
        ("scratch", ["learning_rate=0.00001", "enhance=[clahe, {name: unsharp, radius: 2, amount: 0.5}]"]),
    ],
)
def test_what_was_set_is_set_again(name, changed):
    recipe, _ = change_recipe(load_recipe(name, seed=4), changed)
    command = training_command(record(recipe))
    assert f"--recipe {name} " in command
    assert "--seed 4" in command
    assert ("--set" in command) == bool(changed)
    assert "--each_body_part" not in command
    again, _ = change_recipe(load_recipe(name, seed=4), settings(command))
    assert again.to_dict() == recipe.to_dict()


def test_data_and_place_are_told():
    data = {"key": "fracatlas", "regions": ["hand", "shoulder"], "body_parts": "all", "abnormal": ["fracture"]}
    command = training_command(record(load_recipe("scratch", fold=2), data=data, processes=2, device="cpu"))
    assert command.startswith("ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py --recipe scratch")
    assert "--fold 2 --regions hand shoulder --abnormal fracture --data_dir FracAtlas" in command
    assert command.endswith("--output_dir runs/scratch --cpu")
    assert "--data_dir somebody/films" in training_command(
        record(load_recipe("scratch"), data={"dataset": "somebody/films"})
    )


def test_families_files_and_bases():
    parts = replace(load_recipe("p_base"), family="specialized")
    assert "--recipe p_base --each_body_part --seed" in training_command(record(parts))
    own = replace(load_recipe("phantom"), name="tiny", epochs=7)
    assert "--recipe tiny.yaml --epochs 7 --patch_epochs" in training_command(record(own))
    tuned = replace(load_recipe("fine_tune"), pretrained=False, init_from="/home/me/x", init_heads=True)
    tuned = replace(tuned, learning_rate=1e-5, batch_size=4)
    command = training_command(record(tuned, base={"name": "somebody/mura", "revision": "abc"}))
    assert "--init_from somebody/mura@abc" in command
    assert sorted(settings(command)) == ["batch_size=4", "learning_rate=1.0e-05"]
    each = replace(tuned, family="specialized")
    assert "--each_body_part" in training_command(record(each, base={"name": "mura-phantom", "revision": None}))
    assert "/home" not in command


def test_what_a_base_sets_is_not_set_again():
    taken, _ = take_over(load_recipe("fine_tune"), "mura-phantom")
    assert set(taken) <= set(_OF_THE_BASE)
