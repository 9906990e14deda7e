import json
import os
import shutil

import numpy as np
import pytest
from accelerate import Accelerator

from mura_hf import load_mura
from mura_hf.evaluation import prediction_cache as kept_answers
from mura_hf.evaluation.prediction_cache import KeptAnswers, digest_rows
from tests.conftest import make_checkpoint, make_model


@pytest.fixture(scope="module")
def rows(phantom_tree):
    return load_mura(phantom_tree)["valid"]


@pytest.fixture
def folder(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def passes(monkeypatch):
    """Counts how often a split is predicted."""
    counted = []
    predict = kept_answers.predict_views

    def count(*given, **options):
        counted.append(1)
        return predict(*given, **options)

    monkeypatch.setattr(kept_answers, "predict_views", count)
    return counted


def _ask(folder, rows, cache, **options):
    return KeptAnswers(folder, rows, Accelerator(cpu=True), cache_dir=cache).predict(**options)


def _change(folder, name, **values):
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("family", ["mura", "mura_ensemble"])
def test_a_second_look_costs_no_forward_pass(family, rows, passes, tmp_path):
    folder = make_checkpoint(
        tmp_path / "one", make_model(family, **({"body_part_head": True} if family == "mura" else {}))
    )
    first = _ask(folder, rows, tmp_path / "cache")
    again = _ask(folder, rows, tmp_path / "cache")
    assert len(passes) == 1
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.study_ids, first.patient_ids, first.pooled) == (again.study_ids, again.patient_ids, again.pooled)
    assert (first.pooled is None) == (family == "mura")
    if family == "mura":
        np.testing.assert_array_equal(first.found_parts, again.found_parts)


def test_what_answers_depend_on_asks_for_new_ones(folder, rows, passes, tmp_path):
    cache = tmp_path / "cache"
    _ask(folder, rows, cache)
    _change(folder, "config.json", study_slope=2.0, study_intercept=-1.0, operating_points={"mine": 0.3})
    _ask(folder, rows, cache)
    assert len(passes) == 1  # what only acts on studies' answers does not
    _change(folder, "config.json", temperature=2.0)
    _ask(folder, rows, cache)
    assert len(passes) == 2
    _ask(folder, rows, cache, temperature=1.0)
    assert len(passes) == 2  # as the config had it
    _change(folder, "preprocessor_config.json", resize_mode="squash")
    _ask(folder, rows, cache)
    assert len(passes) == 3
    _ask(folder, rows.select(range(4)), cache)
    assert len(passes) == 4
    make_checkpoint(folder, make_model(seed=5, body_part_head=True))
    _ask(folder, rows, cache)
    assert len(passes) == 5


def test_a_file_that_changes_makes_another_split(phantom_tree, tmp_path):
    tree = shutil.copytree(phantom_tree, tmp_path / "tree")
    rows = load_mura(tree)["valid"]
    before = digest_rows(rows)
    assert digest_rows(load_mura(tree)["valid"]) == before
    file = next(tree.glob("**/valid/*/*/*/*.png"), None) or next(tree.glob("valid/*/*/*/*.png"))
    os.utime(file, (1, 1))
    assert digest_rows(rows) != before


def test_what_was_measured_is_not_measured_again(folder, rows, tmp_path):
    asked = []

    def measure():
        asked.append(1)
        return {"share": 0.25}

    answers = KeptAnswers(folder, rows, Accelerator(cpu=True), cache_dir=tmp_path / "cache")
    assert answers.record("thing", {"n": 3}, measure) == {"share": 0.25}
    assert answers.record("thing", {"n": 3}, measure) == {"share": 0.25}
    assert len(asked) == 1
    answers.record("thing", {"n": 4}, measure)
    assert len(asked) == 2
