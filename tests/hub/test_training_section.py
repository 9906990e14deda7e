import json
import shlex
from dataclasses import replace

import pytest

from mura_hf.hub.training_section import _SET_BY_BASE, bases_of, training_command, training_section
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


class TestCommand:
    @pytest.mark.parametrize(
        ("name", "changed"),
        [
            ("mura_paper", []),
            ("mura_paper", ["learning_rate=5e-5", "augmentation.rotation=10", "model.head_layers=[256]"]),
            (
                "film",
                ["stages.1.epochs=2", "patches.augmentation.flip=0", "model.study_pooling=max", "patches.size=96"],
            ),
            ("film", ["stages=[]", "init_from=null", "backbone_kwargs={}"]),
            ("film", ["stages=[{trains: all, epochs: 2, learning_rate: 0.00005}]", "family=classifier"]),
            ("phantom", ["learning_rate=0.00001", "enhance=[clahe, {name: unsharp, radius: 2, amount: 0.5}]"]),
        ],
    )
    def test_sets_again_what_was_set(self, name, changed):
        recipe, _ = change_recipe(load_recipe(name, seed=4), changed)
        command = training_command(record(recipe))
        assert f"--recipe {name} " in command
        assert "--seed 4" in command
        assert ("--set" in command) == bool(changed)
        assert "--each_body_part" not in command
        again, _ = change_recipe(load_recipe(name, seed=4), settings(command))
        assert again.to_dict() == recipe.to_dict()

    def test_names_data_and_place(self):
        data = {"key": "fracatlas", "regions": ["hand", "shoulder"], "body_parts": "all", "abnormal": ["fracture"]}
        command = training_command(record(load_recipe("phantom", fold=2), data=data, processes=2, device="cpu"))
        assert command.startswith(
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py --recipe phantom"
        )
        assert "--fold 2 --regions hand shoulder --abnormal fracture --data_dir FracAtlas" in command
        assert command.endswith("--output_dir runs/phantom --cpu")
        hub = training_command(record(load_recipe("phantom"), data={"dataset": "somebody/films"}))
        assert "--data_dir somebody/films" in hub

    def test_names_families_files_and_bases(self):
        parts = replace(load_recipe("mura_paper"), family="specialized")
        assert "--recipe mura_paper --each_body_part --seed" in training_command(record(parts))
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

    def test_does_not_repeat_what_the_base_sets(self):
        taken, _ = take_over(load_recipe("fine_tune"), "mura-phantom")
        assert set(taken) <= set(_SET_BY_BASE)


RECIPE = {"epochs": 8, "patches": {"epochs": 0, "size": 112}}
PATCHES = {**RECIPE, "patches": {"epochs": 5, "size": 96}}
BASE = {
    "name": "mura-phantom",
    "revision": None,
    "sha256": "0123456789abcdef" * 4,
    "heads": True,
    "trained_on": [{"key": "phantoms", "name": "phantoms"}, {"key": "mura", "name": "MURA v1.1"}],
}
TIMM = {"name": "timm/resnet50.a1_in1k", "revision": None, "sha256": None, "heads": False, "trained_on": None}
RECORD = {"recipe": RECIPE, "selected_by": "study-level AUROC on dev", "epoch": 3}
BRANCHES = [{"trains": "global", "epochs": 4}, {"trains": "local", "epochs": 1}, {"trains": "fusion", "epochs": 6}]
PATCH_STAGES = [{"trains": "all", "epochs": 6, "patch_size": 224}, {"trains": "all", "epochs": 2, "patch_size": None}]


class TestSection:
    @pytest.mark.parametrize(
        ("recipe", "more", "sentences"),
        [
            (RECIPE, {}, ["The weights are those of epoch 3 of 8, the best by study-level AUROC on dev."]),
            (
                PATCHES, {},
                ["Trained for 5 epochs on patches of 96 px around the findings, then 8 on whole views.",
                 "The weights are those of epoch 3 of 8 on whole views, the best by"],
            ),
            (
                {**RECIPE, "stages": BRANCHES}, {},
                ["Trained in stages: global (4 epochs), local (1 epoch), fusion (6 epochs).",
                 "The weights are those of epoch 3 of 6 of the stage fusion, the best by"],
            ),
            (
                {**RECIPE, "stages": PATCH_STAGES}, {},
                ["Trained in stages: all (6 epochs on patches of 224 px around the findings), all (2 epochs)."],
            ),
            (
                {**RECIPE, "ema_decay": 0.999},
                {"averaged": {"epochs": [2, 7], "dev": {"auroc": 0.91}, "dev_of_best_epoch": {"auroc": 0.925}}},
                ["The weights are the mean of the best epochs (2, 7) by study-level AUROC on dev: AUROC 0.910, "
                 "against 0.925 of the best epoch alone.", "They are an exponential moving average with decay 0.999."],
            ),
            (
                {**RECIPE, "mixup": 0.2, "cutmix": 0.0, "layer_decay": 0.9, "region_weight": 1.5}, {},
                ["", "Training images were mixed: mixup with Beta(0.2, 0.2).", "The learning rate decreases by a "
                 "factor of 0.9 per layer", "The loss includes a term on the class activation map inside and outside"],
            ),
            (RECIPE, {"base": TIMM}, ["", "The backbone was initialized from timm's weights `timm/resnet50.a1_in1k`"]),
            (
                RECIPE, {"base": BASE},
                ["", "Initialized from the checkpoint `mura-phantom` (SHA-256 0123456789ab...), trained on phantoms, "
                 "before that on MURA v1.1: its backbone, and its heads where they fit."],
            ),
            (
                RECIPE,
                {"base": {**BASE, "revision": "f" * 40, "heads": False, "trained_on": None},
                 "data": {"known_to_base": {"train": 3, "valid": 0}}},
                ["", "Initialized from the checkpoint `mura-phantom` (commit ffffffffffff on the Hub), trained on "
                 "data that its records do not name: its backbone.", "It was trained on patients of these data (3 of"],
            ),
        ],
    )  # fmt: skip
    def test_describes_one_training(self, recipe, more, sentences):
        found = training_section({**RECORD, "recipe": recipe, **more})
        assert len(found) >= len(sentences)
        for sentence, expected in zip(found, sentences, strict=False):
            assert sentence.startswith(expected)

    def test_describes_members_and_each_recipe_and_base_once(self):
        member = {"recipe": "film", "epoch": 1, "dev": {"auroc": 0.8}, "seconds": 3.0, "base": BASE}
        member["settings"] = {**PATCHES, "region_weight": 1.0}
        members = {f"film-{seed}": {**member, "seed": seed} for seed in (0, 1)}
        first, second, third = training_section({**RECORD, "epoch": None, "members": members})
        assert "film-1 (recipe `film`, seed 1, epoch 1, AUROC on dev 0.800)" in first
        assert second.startswith(
            "Recipe `film`: Trained for 5 epochs on patches of 96 px around the findings, then 8 on"
        )
        assert "class activation map" in second
        assert BASE["name"] in third
        assert bases_of({"members": members, "base": None}) == [BASE]
        old = {"elbow": {"recipe": "p_base", "epoch": 2, "dev": {"auroc": 0.8}, "base": None}}  # no seed, no settings
        (only,) = training_section({**RECORD, "members": old})
        assert "elbow (recipe `p_base`, epoch 2, AUROC on dev 0.800)" in only
        assert bases_of({"members": old}) == []
