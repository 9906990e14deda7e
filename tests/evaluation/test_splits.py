import json

import pytest

from mura_hf import CheckpointError, DatasetError, load_mura
from mura_hf.data import split_digest
from mura_hf.evaluation import load_split

from .conftest import change_json


@pytest.fixture
def trained(phantom_tree, tmp_path):
    """A folder that claims to be trained on a cut of the tree."""
    datasets = load_mura(phantom_tree, ["hand", "wrist"], dev_fraction=0.3, calib_fraction=0.2, seed=4)
    digest = split_digest((name, study) for name, rows in datasets.items() for study in rows["study_id"])
    record = {
        "recipe": {"dev_fraction": 0.3, "calib_fraction": 0.2, "seed": 4, "stratified": True},
        "data": {"body_parts": ["hand", "wrist"], "split_digest": digest},
    }
    (tmp_path / "training.json").write_text(json.dumps(record))
    return tmp_path, datasets


@pytest.mark.parametrize("split", ["dev", "calib", "valid"])
def test_splits_are_cut_as_in_training(split, trained, phantom_tree):
    folder, datasets = trained
    assert list(load_split(folder, phantom_tree, split)[0]["study_id"]) == list(datasets[split]["study_id"])
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps({"arguments": record["recipe"], "data": record["data"]}))
    assert list(load_split(folder, phantom_tree, split)[0]["study_id"]) == list(datasets[split]["study_id"])


def test_other_data_are_refused_for_all_but_valid(trained, phantom_tree):
    folder, datasets = trained
    data = json.loads((folder / "training.json").read_text())["data"] | {"split_digest": "0" * 64}
    change_json(folder / "training.json", data=data)
    assert len(load_split(folder, phantom_tree, "valid")[0]) == len(datasets["valid"])
    with pytest.raises(DatasetError, match="may hold training patients"):
        load_split(folder, phantom_tree, "dev")
    change_json(folder / "training.json", data=data | {"made_with": {"seed": 3, "n_studies": 9}})
    with pytest.raises(DatasetError, match="another --seed"):  # other phantoms of the same patients
        load_split(folder, phantom_tree, "valid")


def test_the_training_record_is_needed(phantom_tree, tmp_path):
    with pytest.raises(CheckpointError, match=r"no training\.json"):
        load_split(tmp_path, phantom_tree, "valid")
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_split(tmp_path / "nowhere", phantom_tree, "valid")
