import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mura_hf import CheckpointError, DatasetError, load_mura
from mura_hf.data import find_leaks, load_folder, split_digest
from mura_hf.evaluation import load_split, load_splits
from mura_hf.training import TrainingConfig, keep_split_of_base

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


CUT = {"dev_fraction": 0.2, "calib_fraction": 0.2, "valid_fraction": 0.3, "seed": 4, "stratified": True}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Sixty films without patient ids, of which every third exists twice."""
    data, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(1)
    for number in range(60):
        folder = data / ("normal", "abnormal")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (64, 64)).astype(np.uint8)
        for copy in range(1 + (number % 3 == 0)):
            Image.fromarray(pixels).save(folder / f"{number}_{copy}.png")
    return data


@pytest.mark.parametrize(
    ("record", "grouped"),
    [
        ({"recipe": CUT}, False),
        ({"arguments": {**CUT, "group_duplicates": False}}, False),
        ({"data": {"split": CUT}}, True),
    ],
)
def test_what_training_has_seen_is_left_out(record, grouped, films, tmp_path, capsys, monkeypatch):
    """Without grouping, as in old records, copies are in two splits; fine-tuning keeps these splits."""
    trained, present = (load_folder(films, **CUT, group_duplicates=value) for value in (grouped, True))
    digest = split_digest((name, study) for name, rows in trained.items() for study in rows["study_id"])
    record = {**record, "data": {"key": "folder", "split_digest": digest, **record.get("data", {})}}
    (tmp_path / "training.json").write_text(json.dumps(record))
    for split in ("valid", "dev", "calib"):
        capsys.readouterr()
        found = load_splits(tmp_path, films, split)[0]
        printed, before = capsys.readouterr().err, (present if split == "valid" else trained)[split]
        others = {name: rows for name, rows in trained.items() if name != split}
        assert found["train"]["study_id"] == trained["train"]["study_id"]
        assert find_leaks({split: found[split]}, others) == []
        if grouped:
            assert found[split]["study_id"] == trained[split]["study_id"]
            assert "are left out, because" not in printed
        else:
            known = {leak["studies"][0] for leak in find_leaks({split: before}, others)}
            known |= {study for rows in others.values() for study in rows["study_id"]}
            kept = [study for study in before["study_id"] if study not in known]
            assert found[split]["study_id"] == kept
            assert 0 < len(kept) < len(before)
            assert f"{len(before) - len(kept)} of {len(before)} images of {split} are left out" in printed

    base = SimpleNamespace(name="base", read_training=lambda: record)
    monkeypatch.setattr("mura_hf.training.fine_tuning.find_base", lambda name: base)
    config = TrainingConfig().replace(pretrained=False, init_from=str(tmp_path))
    own = load_folder(films, **config.split_options())
    kept = keep_split_of_base(config, own, films, {}, source="folder")[0].split_options()
    assert load_folder(films, **kept)["calib"]["study_id"] == trained["calib"]["study_id"]


def test_the_training_record_is_needed(phantom_tree, tmp_path):
    with pytest.raises(CheckpointError, match=r"no training\.json"):
        load_split(tmp_path, phantom_tree, "valid")
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_split(tmp_path / "nowhere", phantom_tree, "valid")
