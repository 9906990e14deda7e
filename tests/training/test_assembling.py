import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from mura_hf import (
    CheckpointError,
    ConfigError,
    DatasetError,
    MuraEnsembleForImageClassification,
    MuraForImageClassification,
    MuraImageProcessor,
    MuraSpecializedForImageClassification,
)
from mura_hf.data import ViewDataset
from mura_hf.training import predict_views
from mura_hf.training.assembling import plan_members

from .conftest import TINY, read_record, train_tiny


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Two recipes whose models can be members of one."""
    folder = tmp_path_factory.mktemp("recipes")
    small = {key: value for key, value in TINY.to_dict().items() if key != "name"}
    small["epochs"] = 1
    (folder / "plain.yaml").write_text(yaml.safe_dump(small))
    (folder / "crossed.yaml").write_text(
        yaml.safe_dump({**small, "model": {"study_pooling": "max"}, "level": "study", "batch_size": 6})
    )
    (folder / "larger.yaml").write_text(yaml.safe_dump({**small, "image_size": 48}))
    return {path.stem: str(path) for path in folder.iterdir()}


def _dev(model, datasets, folder):
    AcceleratorState._reset_state(reset_partial_state=True)
    views = ViewDataset(datasets["dev"], MuraImageProcessor.from_pretrained(folder))
    return predict_views(model, views, Accelerator(cpu=True))


def test_an_ensemble_is_the_weighted_mean_and_its_members_are_not_trained_twice(phantom_splits, recipes, tmp_path):
    options = {"family": "ensemble", "members": [recipes["plain"], recipes["crossed"]]}
    folder, _ = train_tiny(phantom_splits, tmp_path / "run", fit_member_weights=True, **options)
    model = MuraEnsembleForImageClassification.from_pretrained(folder)
    record = read_record(folder)
    weights = record["member_weights"]
    assert weights == model.config.weights
    assert sum(weights.values()) == pytest.approx(1)
    answers = {
        name: _dev(
            MuraForImageClassification.from_pretrained(tmp_path / "run" / name / "checkpoint"), phantom_splits, folder
        ).study_probabilities()[0]
        for name in ("plain", "crossed")
    }
    whole = _dev(model, phantom_splits, folder)
    expected = sum(weights[name] * answers[name] for name in answers)
    np.testing.assert_allclose(whole.study_probabilities()[0], expected, atol=1e-5)
    assert record["dev"]["auroc"] == pytest.approx(whole.study_metrics()["auroc"], abs=1e-6)
    assert {name: told["recipe"] for name, told in record["members"].items()} == {
        "plain": "plain",
        "crossed": "crossed",
    }

    # The same again trains nothing; a later run with the same members: one stands, one is not there.
    assert train_tiny(phantom_splits, tmp_path / "run", fit_member_weights=True, **options)[0] == folder
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "run" / "plain").rename(again / "plain")
    weights = again / "plain" / "checkpoint" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    stands = json.loads((again / "plain" / "finished.json").read_text())
    (again / "plain" / "finished.json").write_text(json.dumps({**stands, "recipe": {**stands["recipe"], "epochs": 9}}))
    with pytest.raises(DatasetError, match="plain holds a run that was trained otherwise: epochs was 9, now 1"):
        train_tiny(phantom_splits, again, **options)
    (again / "plain" / "finished.json").write_text(json.dumps(stands))
    train_tiny(phantom_splits, again, **options)
    assert weights.stat().st_mtime_ns == before
    assert (again / "crossed" / "finished.json").exists()
    with pytest.raises(DatasetError, match="trained otherwise: fit_member_weights was False, now True"):
        train_tiny(phantom_splits, again, fit_member_weights=True, **options)


def test_a_recipe_named_again_is_trained_with_another_seed(phantom_splits, recipes, tmp_path):
    options = {"family": "ensemble", "members": [recipes["plain"]] * 2, "seed": 3}
    plan = plan_members(replace(TINY, **options), phantom_splits)
    assert {name: member.recipe.seed for name, member in plan.items()} == {"plain-3": 3, "plain-4": 4}
    folder, _ = train_tiny(phantom_splits, tmp_path / "run", **options)
    record = read_record(folder)
    assert {name: told["seed"] for name, told in record["members"].items()} == {"plain-3": 3, "plain-4": 4}
    assert record["recipe"]["members"] == ["plain", "plain"]  # and no path
    for seed in (3, 4):  # each is cut as the ensemble says
        one = read_record(tmp_path / "run" / f"plain-{seed}" / "checkpoint")
        assert (one["recipe"]["seed"], one["data"]["cut"]["seed"]) == (seed, 3)
        assert record["members"][f"plain-{seed}"]["settings"] == one["recipe"]
    assert record["seconds"] >= sum(told["seconds"] for told in record["members"].values())
    one, other = (
        MuraForImageClassification.from_pretrained(tmp_path / "run" / name / "checkpoint").state_dict()
        for name in ("plain-3", "plain-4")
    )
    assert not all((one[name] == other[name]).all() for name in one)
    alike = tmp_path / "plain-3.yaml"
    alike.write_text(yaml.safe_dump({}))
    with pytest.raises(ConfigError, match="two members would be called plain-3"):
        plan_members(replace(TINY, **{**options, "members": [*options["members"], str(alike)]}), phantom_splits)


def test_members_share_a_processor_or_are_refused_before_training(phantom_splits, recipes, tmp_path):
    with pytest.raises(CheckpointError, match="preprocess images differently, in size"):
        train_tiny(phantom_splits, tmp_path / "run", family="ensemble", members=[recipes["plain"], recipes["larger"]])
    assert not (tmp_path / "run").exists()


def test_a_model_for_each_body_part(phantom_splits, recipes, tmp_path, monkeypatch):
    labels = {}
    for split in ("train", "dev"):
        for part, label in zip(phantom_splits[split]["body_part"], phantom_splits[split]["label"], strict=True):
            labels.setdefault(part, {}).setdefault(split, set()).add(label)
    full = [part for part, seen in labels.items() if all(seen.get(split) == {0, 1} for split in ("train", "dev"))][:2]
    lacking = [part for part in labels if part not in full]
    some = phantom_splits.filter(lambda part: part in full, input_columns="body_part")
    folder, _ = train_tiny(some, tmp_path / "run", family="specialized", epochs=1)
    model = MuraSpecializedForImageClassification.from_pretrained(folder)
    names = {part: some["train"].features["body_part"].int2str(part) for part in full}
    assert set(model.members) == set(names.values())
    whole = _dev(model, some, folder)
    for part, name in names.items():
        member = tmp_path / "run" / name
        rows = [row for row, one in enumerate(some["dev"]["body_part"]) if one == part]
        alone = _dev(MuraForImageClassification.from_pretrained(member / "checkpoint"), some, folder)
        np.testing.assert_allclose(whole.probabilities[rows], alone.probabilities[rows], atol=1e-5)
        assert read_record(member / "checkpoint")["data"]["body_parts"] == [name]
        assert read_record(member / "checkpoint")["data"]["views"]["dev"] == len(rows)
    if any(set(seen.get("dev", ())) != {0, 1} for part, seen in labels.items() if part in lacking):
        with pytest.raises(DatasetError, match=r"of every part, and .* lacks some"):
            plan_members(replace(TINY, family="specialized"), phantom_splits)


def test_a_router_must_find_the_part_and_members_are_single(phantom_splits, recipes):
    with pytest.raises(ConfigError, match="made of members itself"):
        plan_members(replace(TINY, family="ensemble", members=[recipes["plain"], "d_ensemble"]), phantom_splits)
    part = phantom_splits["train"]["body_part"][0]
    one = phantom_splits.filter(lambda this: this == part, input_columns="body_part")
    both = {"train": one["train"], "dev": one["train"], "calib": one["calib"], "valid": one["valid"]}
    with pytest.raises(ConfigError, match="finds no body part"):
        plan_members(replace(TINY, family="specialized", router=recipes["plain"]), type(phantom_splits)(both))


def test_the_studys_ensemble_shares_one_processor(phantom_splits):
    from mura_hf.training import load_recipe

    plan = plan_members(load_recipe("d_ensemble"), phantom_splits)
    assert list(plan) == ["d_resnet50", "d_densenet169", "d_densenet169_b32", "d_densenet169_b64", "d_fusenet"]
