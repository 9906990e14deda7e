from pathlib import Path

import pytest
import yaml

from mura_hf.hub.training_section import bases_of, training_command, training_section


def test_the_command_has_the_options_that_were_given():
    data = {"key": "fracatlas", "body_parts": "all"}
    record = {"data": data, "recipe": {"name": "mine"}, "processes": 1, "device": "cuda"}
    assert training_command(record) is None  # an old record
    record["options"] = ["--config", "mine.yaml", "--stages", "[]", "--regions", "hand", "leg"]
    run = "scripts/train.py --config mine.yaml --stages '[]' --regions hand leg --data_dir FracAtlas"
    run += " --output_dir runs/mine"
    assert training_command(record) == f"python {run}"
    found = training_command({**record, "processes": 2, "device": "cpu"})
    assert found == f"ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 {run} --cpu"
    record["data"] = {"key": "hub", "dataset": "somebody/films"}
    assert "--data_dir somebody/films " in training_command(record)


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
