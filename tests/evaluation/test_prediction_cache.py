import os
import shutil

import numpy as np
import pytest
from accelerate import Accelerator

from mura_hf import load_mura
from mura_hf.evaluation import prediction_cache
from mura_hf.evaluation.prediction_cache import PredictionCache, digest_rows
from tests.checkpoints import make_checkpoint, make_model

from .conftest import change_json


@pytest.fixture
def passes(monkeypatch):
    """Counts how often a split is predicted."""
    counted, predict = [], prediction_cache.predict_views

    def count(*args, **options):
        counted.append(1)
        return predict(*args, **options)

    monkeypatch.setattr(prediction_cache, "predict_views", count)
    return counted


def _predict(folder, rows, cache_dir, **options):
    return PredictionCache(folder, rows, Accelerator(cpu=True), cache_dir=cache_dir).predict(**options)


@pytest.mark.parametrize("family", ["mura", "mura_ensemble"])
def test_a_second_evaluation_needs_no_forward_pass(family, rows, passes, tmp_path):
    fields = {"body_part_head": True} if family == "mura" else {}
    folder = make_checkpoint(tmp_path / "one", make_model(family, **fields))
    first, again = (_predict(folder, rows, tmp_path / "cache") for _ in range(2))
    assert len(passes) == 1
    for name in ("probabilities", "labels", "body_parts", "predicted_parts", "single_view_probabilities"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.study_ids, first.patient_ids, first.pooled) == (again.study_ids, again.patient_ids, again.pooled)
    assert (first.pooled is None) == (first.predicted_parts is not None) == (family == "mura")


def test_changes_that_affect_predictions_need_new_ones(folder, rows, passes, tmp_path):
    cache = tmp_path / "cache"
    _predict(folder, rows, cache)
    change_json(folder / "config.json", study_slope=2.0, study_intercept=-1.0, operating_points={"mine": 0.3})
    _predict(folder, rows, cache)
    assert len(passes) == 1  # these only affect studies
    change_json(folder / "config.json", temperature=2.0)
    _predict(folder, rows, cache)
    assert len(passes) == 2
    _predict(folder, rows, cache, temperature=1.0)
    assert len(passes) == 2  # as the config was before
    change_json(folder / "preprocessor_config.json", resize_mode="squash")
    _predict(folder, rows, cache)
    assert len(passes) == 3
    _predict(folder, rows.select(range(4)), cache)
    assert len(passes) == 4
    make_checkpoint(folder, make_model(seed=5, body_part_head=True))
    _predict(folder, rows, cache)
    assert len(passes) == 5


def test_a_changed_file_makes_another_split(phantom_tree, tmp_path):
    tree = shutil.copytree(phantom_tree, tmp_path / phantom_tree.name)
    rows = load_mura(tree)["valid"]
    before = digest_rows(rows)
    assert digest_rows(load_mura(tree)["valid"]) == before
    os.utime(next(tree.glob("valid/*/*/*/*.png")), (1, 1))
    assert digest_rows(rows) != before


def test_a_measurement_is_made_once(folder, rows, tmp_path):
    made = []

    def measure():
        made.append(1)
        return {"share": 0.25}

    cache = PredictionCache(folder, rows, Accelerator(cpu=True), cache_dir=tmp_path / "cache")
    for settings, count in (({"n": 3}, 1), ({"n": 3}, 1), ({"n": 4}, 2)):
        assert cache.measure_once("thing", settings, measure) == {"share": 0.25}
        assert len(made) == count
