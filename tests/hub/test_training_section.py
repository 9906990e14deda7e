import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mura_hf.common import BUNDLED
from mura_hf.hub.training_section import _SET_BY_BASE, bases_of, training_command, training_section
from mura_hf.training import load_config, read_command_line
from mura_hf.training.fine_tuning import changes_for

PLACE = {"data": {"key": "mura", "body_parts": "all"}, "processes": 1, "device": "cuda"}


@dataclass
class Script:
    config: str
    data_dir: str | None = None
    output_dir: str | None = None
    each_body_part: bool = False
    patch_epochs: int | None = None
    cpu: bool = False


def record(config, **more):
    return json.loads(json.dumps({**PLACE, "arguments": config.to_dict(), **more}))


def read(command):
    words = shlex.split(command)
    return read_command_line(words[words.index("scripts/train.py") + 1 :], Script)[1]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mura_paper", {}),
        ("mura_paper", {"learning_rate": 5e-5, "rotation": 10, "model_kwargs": {"head_layers": [256]}}),
        ("film", {"stages": [{"trains": "all", "epochs": 2, "learning_rate": 0.00005}]}),
        ("film", {"stages": [], "init_from": None, "backbone_kwargs": {}, "epochs": 3}),
        ("mura_paper", {"enhance": ["clahe", {"name": "unsharp", "radius": 2, "amount": 0.5}], "fold": 2}),
    ],
)
def test_the_command_gives_the_same_config_again(name, changes):
    config = load_config(name, seed=4, **changes)
    command = training_command(record(config))
    assert f"--config {name} " in command
    assert "--seed 4" in command
    assert "--each_body_part" not in command
    assert read(command) == config


def test_data_place_families_files_and_bases():
    data = {"key": "fracatlas", "regions": ["hand", "shoulder"], "body_parts": "all", "abnormal": ["fracture"]}
    command = training_command(record(load_config("ours", fold=2), data=data, processes=2, device="cpu"))
    assert command.startswith("ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py --config ours")
    assert "--fold 2 --regions hand shoulder --abnormal fracture --data_dir FracAtlas" in command
    assert command.endswith("--output_dir runs/ours --cpu")
    old = record(load_config("ours"), data=data)
    assert "group_duplicates" not in training_command(old)
    del old["arguments"]["group_duplicates"]  # from before there was this option
    assert "--group_duplicates false --data_dir FracAtlas" in training_command(old)
    del old["data"]["key"]
    assert "group_duplicates" not in training_command(old)  # MURA
    ours = load_config("ours")
    hub = training_command(record(ours, data={"dataset": "somebody/films"}))
    assert "--data_dir somebody/films" in hub
    assert "--config ours --each_body_part --seed" in training_command(record(ours.replace(family="specialized")))
    own = training_command(record(ours.replace(name="tiny", epochs=7)))
    assert "--config tiny.yaml --epochs 7 --seed" in own
    changes = {"pretrained": False, "init_from": "/home/me/x", "init_heads": True, "learning_rate": 1e-5}
    tuned = load_config("fine_tune").replace(**changes)
    command = training_command(record(tuned, base={"name": "somebody/mura", "revision": "abc"}))
    assert "--init_from somebody/mura@abc --learning_rate 1e-05 --seed" in command
    assert "/home" not in command
    each = record(tuned.replace(family="specialized"), base={"name": "mura-phantom", "revision": None})
    assert "--each_body_part" in training_command(each)


def test_what_a_base_sets_is_no_option():
    changes, _ = changes_for(load_config("fine_tune"), "mura-phantom")
    assert set(changes) <= set(_SET_BY_BASE)


def test_records_of_the_first_edition():
    phantom = training_command(json.loads((BUNDLED["mura-phantom"] / "training.json").read_text()))
    assert "--config phantom --init_from mura-phantom-1 --epochs 3 --stages '[]'" in phantom


BASE = {
    "name": "mura-phantom", "revision": None, "sha256": "0123456789abcdef" * 4, "heads": True,
    "trained_on": [{"key": "phantoms", "name": "phantoms"}, {"key": "mura", "name": "MURA v1.1"}],
}  # fmt: skip


@pytest.mark.parametrize("case", yaml.safe_load((Path(__file__).parent / "training_sections.yaml").read_text()))
def test_one_training(case):
    recipe = {"epochs": 8, "patches": {"epochs": 0, "size": 112}, **case["recipe"]}
    training = {"recipe": recipe, "selected_by": "study-level AUROC on dev", "epoch": 3, **case.get("more", {})}
    found = "\n".join(training_section(training))
    for sentence in case["sentences"]:
        assert sentence in found


def test_members_and_each_recipe_and_base_once():
    member = {"recipe": "film", "epoch": 1, "dev": {"auroc": 0.8}, "seconds": 3.0, "base": BASE}
    member["settings"] = {"epochs": 8, "patches": {"epochs": 5, "size": 96}, "region_weight": 1.0}
    members = {f"film-{seed}": {**member, "seed": seed} for seed in (0, 1)}
    training = {"recipe": {"epochs": 8}, "selected_by": "AUROC", "epoch": None, "members": members, "base": None}
    first, second, third = training_section(training)
    assert "film-1 (config `film`, seed 1, epoch 1, AUROC on dev 0.800)" in first
    assert second.startswith("Config `film`: Trained for 5 epochs on patches of 96 px around the findings, then 8 on")
    assert "class activation map" in second
    assert BASE["name"] in third
    assert bases_of(training) == [BASE]
    old = {"elbow": {"recipe": "p_base", "epoch": 2, "dev": {"auroc": 0.8}, "base": None}}  # no seed, no settings
    (only,) = training_section({**training, "members": old})
    assert "elbow (config `p_base`, epoch 2, AUROC on dev 0.800)" in only
    assert bases_of({"members": old}) == []
