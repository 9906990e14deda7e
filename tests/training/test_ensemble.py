from types import SimpleNamespace

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
from mura_hf.metrics import MIN_SIZES
from mura_hf.training import fit_member_weights, predict_views
from mura_hf.training.ensemble import _fit_weights, plan_members

from .conftest import TINY, read_record, train_tiny


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Two configs whose models can be members of one."""
    folder = tmp_path_factory.mktemp("configs")
    small = {key: value for key, value in TINY.replace(epochs=1).to_dict().items() if key != "name"}
    crossed = {"model_kwargs": {"study_pooling": "max"}, "level": "study", "batch_size": 6}
    nested = {"family": "ensemble", "members": ["phantom", "phantom"]}
    kinds = {"plain": {}, "crossed": crossed, "larger": {"image_size": 48}, "nested": nested}
    for name, changes in kinds.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(small | changes))
    return {path.stem: str(path) for path in folder.iterdir()}


def _member(run, name):
    return MuraForImageClassification.from_pretrained(run / name / "checkpoint")


def _dev(model, datasets, folder):
    AcceleratorState._reset_state(reset_partial_state=True)
    views = ViewDataset(datasets["dev"], MuraImageProcessor.from_pretrained(folder))
    return predict_views(model, views, Accelerator(cpu=True))


@pytest.mark.slow
def test_an_ensemble_is_the_weighted_mean_and_its_members_are_not_trained_twice(
    phantom_splits, configs, tmp_path, monkeypatch
):
    monkeypatch.setitem(MIN_SIZES, "calibration", (1, 1))
    options = {"family": "ensemble", "members": [configs["plain"], configs["crossed"]]}
    folder, _ = train_tiny(phantom_splits, tmp_path / "run", fit_member_weights=True, **options)
    model = MuraEnsembleForImageClassification.from_pretrained(folder)
    record = read_record(folder)
    weights = record["member_weights"]
    assert weights == model.config.weights
    assert sum(weights.values()) == pytest.approx(1)
    whole = _dev(model, phantom_splits, folder)
    alone = {name: _dev(_member(tmp_path / "run", name), phantom_splits, folder) for name in ("plain", "crossed")}
    expected = sum(weights[name] * found.study_probabilities()[0] for name, found in alone.items())
    np.testing.assert_allclose(whole.study_probabilities()[0], expected, atol=1e-5)
    assert record["dev"]["auroc"] == pytest.approx(whole.study_metrics()["auroc"], abs=1e-6)
    assert {name: one["config"] for name, one in record["members"].items()} == {name: name for name in alone}

    # The same again trains nothing; a later run with the same members: one stands, one is not there.
    assert train_tiny(phantom_splits, tmp_path / "run", fit_member_weights=True, **options)[0] == folder
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "run" / "plain").rename(again / "plain")
    weights, finished = (again / "plain" / name for name in ("checkpoint/model.safetensors", "finished.json"))
    before, kept = weights.stat().st_mtime_ns, finished.read_text()
    finished.write_text(kept.replace('"epochs": 1,', '"epochs": 9,'))
    with pytest.raises(DatasetError, match="plain contains a run with other settings: epochs was 9, now 1"):
        train_tiny(phantom_splits, again, **options)
    finished.write_text(kept)
    train_tiny(phantom_splits, again, **options)
    assert weights.stat().st_mtime_ns == before
    assert (again / "crossed" / "finished.json").exists()
    with pytest.raises(DatasetError, match="other settings: fit_member_weights was False, now True"):
        train_tiny(phantom_splits, again, fit_member_weights=True, **options)


@pytest.mark.slow
def test_a_config_named_again_is_trained_with_another_seed(phantom_splits, configs, tmp_path):
    options = {"family": "ensemble", "members": [configs["plain"]] * 2, "seed": 3}
    plan = plan_members(TINY.replace(**options), phantom_splits)
    assert {name: member.config.training.seed for name, member in plan.items()} == {"plain-3": 3, "plain-4": 4}
    folder, _ = train_tiny(phantom_splits, tmp_path / "run", **options)
    record = read_record(folder)
    assert {name: one["seed"] for name, one in record["members"].items()} == {"plain-3": 3, "plain-4": 4}
    assert record["arguments"]["members"] == ["plain", "plain"]  # and no path
    for seed in (3, 4):  # each is cut as the ensemble says
        one = read_record(tmp_path / "run" / f"plain-{seed}" / "checkpoint")
        assert (one["arguments"]["seed"], one["data"]["split"]["seed"]) == (seed, 3)
        assert record["members"][f"plain-{seed}"]["arguments"] == one["arguments"]
    assert record["seconds"] >= sum(one["seconds"] for one in record["members"].values())
    one, other = (_member(tmp_path / "run", name).state_dict() for name in ("plain-3", "plain-4"))
    assert not all((one[name] == other[name]).all() for name in one)
    alike = tmp_path / "plain-3.yaml"
    alike.write_text(yaml.safe_dump({}))
    with pytest.raises(ConfigError, match="two members would be called plain-3"):
        plan_members(TINY.replace(**{**options, "members": [*options["members"], str(alike)]}), phantom_splits)


def test_members_share_a_processor_or_are_refused_before_training(phantom_splits, configs, tmp_path):
    with pytest.raises(CheckpointError, match="preprocess images differently, in size"):
        train_tiny(phantom_splits, tmp_path / "run", family="ensemble", members=[configs["plain"], configs["larger"]])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_model_for_each_body_part(phantom_splits, configs, tmp_path, monkeypatch):
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
        rows = [row for row, one in enumerate(some["dev"]["body_part"]) if one == part]
        alone = _dev(_member(tmp_path / "run", name), some, folder)
        np.testing.assert_allclose(whole.probabilities[rows], alone.probabilities[rows], atol=1e-5)
        data = read_record(tmp_path / "run" / name / "checkpoint")["data"]
        assert (data["body_parts"], data["views"]["dev"]) == ([name], len(rows))
    if any(set(seen.get("dev", ())) != {0, 1} for part, seen in labels.items() if part in lacking):
        with pytest.raises(DatasetError, match=r"of every body part, but .* lacks some"):
            plan_members(TINY.replace(family="specialized"), phantom_splits)


def test_a_router_must_find_the_part_and_members_are_single(phantom_splits, configs):
    with pytest.raises(ConfigError, match="consists of members itself"):
        plan_members(TINY.replace(family="ensemble", members=[configs["plain"], configs["nested"]]), phantom_splits)
    part = phantom_splits["train"]["body_part"][0]
    one = phantom_splits.filter(lambda this: this == part, input_columns="body_part")
    both = {"train": one["train"], "dev": one["train"], "calib": one["calib"], "valid": one["valid"]}
    with pytest.raises(ConfigError, match="does not predict the body part"):
        plan_members(TINY.replace(family="specialized", router=configs["plain"]), type(phantom_splits)(both))
    with pytest.raises(ConfigError, match=r"one body part, .*, so nothing can be routed"):
        plan_members(TINY.replace(family="specialized", router="phantom"), type(phantom_splits)(both))


def _loss(weights, probabilities, labels):
    mixed = np.asarray(weights) @ probabilities
    return -np.mean(np.log(np.where(labels == 1, mixed, 1 - mixed)))


def test_no_other_weights_are_better():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    good = np.clip(0.2 + 0.6 * labels + rng.normal(0, 0.3, 200), 0.01, 0.99)
    other = np.clip(0.2 + 0.6 * labels + rng.normal(0, 0.35, 200), 0.01, 0.99)
    noise = rng.uniform(0.02, 0.98, 200)
    probabilities = np.stack([good, other, noise])
    weights = fit_member_weights(probabilities, labels)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    assert weights[0] > weights[1] > max(0.1, weights[2])
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 51) for b in np.linspace(0, 1 - a, 51)]
    lowest = min(_loss(one, probabilities, labels) for one in grid)
    assert _loss(weights, probabilities, labels) <= lowest + 1e-9


def test_a_member_that_is_always_wrong_gets_nothing_and_both_classes_are_needed():
    labels = np.array([0, 1, 0, 1, 1])
    weights = fit_member_weights(np.stack([1.0 - labels, 0.2 + 0.6 * labels]), labels)
    np.testing.assert_allclose(weights, [0, 1], atol=1e-6)
    with pytest.raises(ValueError, match="normal and abnormal"):
        fit_member_weights(np.full((2, 3), 0.5), np.ones(3, int))


def test_weights_are_not_fitted_to_too_few_studies(phantom_splits, capsys):
    assert _fit_weights({}, phantom_splits, None, SimpleNamespace(is_main_process=True)) is None
    assert "equal, not fitted on calib: too few: " in capsys.readouterr().out
