import json
import shutil
from dataclasses import replace

import pytest

from mura_hf import load_mura
from mura_hf.evaluation import load_split
from mura_hf.training import keep_cut_of_base

from .conftest import TINY, train_tiny


@pytest.fixture(scope="module")
def base(phantom_tree, tmp_path_factory):
    datasets = load_mura(phantom_tree, dev_fraction=0.25, calib_fraction=0.2)
    return train_tiny(datasets, tmp_path_factory.mktemp("base") / "run", epochs=1)[0]


def _patients(datasets, *splits):
    return {patient for split in splits for patient in datasets[split]["patient_id"]}


def test_on_the_same_data_the_cut_stays(base, phantom_tree):
    recipe = replace(TINY, init_from=str(base), dev_fraction=0.4, seed=7)
    own = load_mura(phantom_tree, **recipe.cut())
    theirs = load_mura(phantom_tree, **TINY.cut())
    assert _patients(own, "dev", "calib") & _patients(theirs, "train")  # else there were nothing to mend
    kept, known, told = keep_cut_of_base(recipe, own, phantom_tree, {}, source="phantoms")
    assert kept.cut() == TINY.cut()
    assert known == {}
    assert "was trained on these data" in told
    assert keep_cut_of_base(kept, theirs, phantom_tree, {}, source="phantoms")[2] is None


def test_a_member_is_cut_as_its_ensemble_was_whatever_its_seed(base, phantom_tree, tmp_path):
    member = shutil.copytree(base, tmp_path / "member")
    record = json.loads((member / "training.json").read_text())
    record["data"]["cut"], record["recipe"]["seed"] = TINY.cut(), TINY.seed + 1
    (member / "training.json").write_text(json.dumps(record))
    recipe = replace(TINY, init_from=str(member), dev_fraction=0.4, seed=7)
    kept, _, _ = keep_cut_of_base(recipe, load_mura(phantom_tree, **recipe.cut()), phantom_tree, {}, source="phantoms")
    assert kept.cut() == TINY.cut()
    calib, _ = load_split(member, phantom_tree, "calib")
    assert calib["study_id"] == load_mura(phantom_tree, **TINY.cut())["calib"]["study_id"]


def test_of_some_parts_of_them_the_known_are_counted(base, phantom_tree):
    recipe = replace(TINY, init_from=str(base), dev_fraction=0.4, calib_fraction=0.3, seed=7, stratified=False)
    chosen = {"body_parts": ["wrist", "elbow", "hand"]}
    own = load_mura(phantom_tree, **chosen, **recipe.cut())
    kept, known, told = keep_cut_of_base(recipe, own, phantom_tree, chosen, source="phantoms")
    expected = _patients(own, "dev") & _patients(load_mura(phantom_tree, **TINY.cut()), "train")
    assert kept == recipe
    assert known["dev"] == len(expected) > 0
    assert known["valid"] == 0
    assert "figures flatter" in told


def test_other_data_are_cut_as_the_recipe_says(base, phantom_tree, tmp_path):
    from mura_hf.phantoms import write_phantom_mura

    tree = write_phantom_mura(tmp_path / "tree", 12, seed=9, size=64, progress=False)
    recipe = replace(TINY, init_from=str(base), seed=7)
    assert keep_cut_of_base(recipe, load_mura(tree, **recipe.cut()), tree, {}, source="phantoms") == (recipe, {}, None)
    assert keep_cut_of_base(TINY, load_mura(tree, **TINY.cut()), tree, {}, source="phantoms") == (TINY, {}, None)
