import json

import numpy as np
import pytest
import yaml
from comparisons import call_as_many, compare_recipes
from films import ARMS, PAIRS, compare_on_films, summarize
from sklearn.metrics import roc_auc_score

from mura_hf import DatasetError
from mura_hf.data import load_fracatlas
from mura_hf.metrics import bootstrap_confidence_intervals, classification_metrics
from mura_hf.training import load_recipe

from ..open_trees import write_fracatlas

TINY = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 16, 24, 32]},
    "pretrained": False,
    "body_part_head": False,
    "image_size": 48,
    "epochs": 1,
    "batch_size": 16,
    "learning_rate": 0.001,
    "dev_fraction": 0.2,
    "calib_fraction": 0.2,
}
GROUPS = {"hand": ["hand"], "upper limb": ["hand", "shoulder"]}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    write_fracatlas(folder / "data", n=200, size=48)
    (folder / "plain.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "boxes.yaml").write_text(yaml.safe_dump({"extends": "plain.yaml", "region_weight": 1.0}))
    pairs = [(str(folder / "boxes.yaml"), str(folder / "plain.yaml"))]
    report = compare_on_films(folder / "data", folder / "runs", pairs=pairs, seeds=[0, 1], regions=GROUPS, cpu=True)
    return folder, report


def test_figures_are_those_of_the_held_out_films(compared):
    folder, report = compared
    cut = {"dev_fraction": 0.2, "calib_fraction": 0.2}
    datasets = load_fracatlas(folder / "data", **cut)
    truth = {split: np.asarray(datasets[split]["label"]) for split in ("valid", "calib")}
    hands = np.asarray(["hand" in region for region in datasets["valid"]["region"]])
    blocks = np.asarray(datasets["valid"]["patient_id"])
    runs = []
    for seed in (0, 1):
        found = {split: dict(np.load(folder / "runs" / f"boxes-{seed}" / f"{split}_studies.npz")) for split in truth}
        assert list(found["valid"]["study_ids"]) == datasets["valid"]["study_id"]
        runs.append(call_as_many(*(found[split]["probabilities"] for split in truth), truth["calib"]))
    hand = report["recipes"]["boxes"]["hand"]
    assert (hand["n"], hand["n_abnormal"]) == (hands.sum(), truth["valid"][hands].sum())
    expected = [roc_auc_score(truth["valid"][hands], run[hands]) for run in runs]
    assert hand["auroc_by_seed"] == pytest.approx(expected)
    kappas = [classification_metrics(truth["valid"][hands], run[hands])["kappa"] for run in runs]
    assert hand["kappa"] == pytest.approx(np.mean(kappas))
    limits = bootstrap_confidence_intervals(truth["valid"][hands], np.stack(runs)[:, hands], blocks[hands])
    assert hand["intervals"]["kappa"] == pytest.approx(limits["kappa"])
    assert report["recipes"]["boxes"]["upper limb"]["n"] == len(truth["valid"])


def test_tables_say_what_the_report_says(compared):
    folder, report = compared
    text = (folder / "runs" / "films.md").read_text()
    hand = report["recipes"]["plain"]["hand"]
    assert f"hand ({hand['n_abnormal']} of {hand['n']})" in text
    low, high = hand["intervals"]["auroc"]
    assert "| plain | auroc | " in text
    assert f"{hand['auroc']:.3f} ({low:.3f} to {high:.3f})" in text
    assert f"| boxes - plain | {report['pairs']['boxes - plain']['all']['auroc']['difference']:+.3f} (" in text
    kept = summarize(report)
    assert kept["recipes"]["plain"]["hand"]["auroc"] == round(hand["auroc"], 3)
    assert len(json.dumps(kept)) < len(json.dumps(report))


def test_a_region_without_both_labels_is_refused(compared, tmp_path):
    datasets = load_fracatlas(compared[0] / "data")
    with pytest.raises(DatasetError, match="of leg"):
        compare_recipes(datasets, [], tmp_path, data_description={}, regions={"leg": ["leg"]})


def test_as_many_are_called_as_there_are():
    rng = np.random.default_rng(5)
    labels = rng.random(400) < 0.2
    reference, probabilities = rng.beta(2, 9, 400), rng.beta(2, 9, 300)
    moved = call_as_many(reference, reference, labels)
    assert (moved > 0.5).sum() == pytest.approx(labels.sum(), abs=1)
    other = call_as_many(probabilities, reference, labels)
    assert (np.argsort(other) == np.argsort(probabilities)).all()
    threshold = np.quantile(reference, 1 - labels.mean())
    assert ((other > 0.5) == (probabilities > threshold)).all()


def test_arms_share_their_cut_and_all_but_what_they_differ_in():
    recipes = {name: load_recipe(name) for name in ARMS}
    assert {name for pair in PAIRS for name in pair} == set(ARMS)
    assert len({json.dumps(recipe.cut()) for recipe in recipes.values()}) == 1
    for name, recipe in recipes.items():
        assert bool(recipe.region_weight) == (name in ("film", "film_boxes"))
        assert (recipe.init_from == "bundled") == (name in ("film", "film_phantom"))
        assert (recipe.backbone, recipe.backbone_kwargs) == (recipes["film"].backbone, recipes["film"].backbone_kwargs)
