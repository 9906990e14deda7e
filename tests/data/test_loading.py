import pytest

from mura_hf import DatasetError
from mura_hf.data import SOURCES, detect_source, load_data

from ..open_trees import write_fracatlas, write_grazpedwri


def test_each_dataset_is_known_by_its_files(phantom_tree, tmp_path):
    write_fracatlas(tmp_path / "atlas", n=100, size=48)
    write_grazpedwri(tmp_path / "graz", n_patients=20, size=48)
    found = {}
    for root in (phantom_tree, tmp_path / "atlas", tmp_path / "graz"):
        datasets, source = load_data(root, dev_fraction=0.1, calib_fraction=0.1, seed=1)
        assert detect_source(root) is source is SOURCES[source.key]
        found[source.key] = datasets
    assert set(found) == {"phantoms", "fracatlas", "grazpedwri"}
    assert all(list(datasets) == ["train", "dev", "calib", "valid"] for datasets in found.values())
    chosen, _ = load_data(tmp_path / "atlas", regions=["shoulder"], abnormal=["hardware"])
    assert set(chosen["train"]["region"]) == {"shoulder"}
    with pytest.raises(ValueError, match="body_parts cannot be chosen for FracAtlas"):
        load_data(tmp_path / "atlas", body_parts=["wrist"])


def test_what_is_none_of_them_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"contains no train_labeled_studies\.csv"):
        load_data(tmp_path)
    (tmp_path / "dataset.csv").write_text("a,b\n")
    with pytest.raises(DatasetError, match="neither FracAtlas nor GRAZPEDWRI-DX"):
        load_data(tmp_path)


def test_what_must_be_credited_is():
    for key in ("fracatlas", "grazpedwri"):
        assert "CC BY 4.0" in SOURCES[key].credit
        assert SOURCES[key].license == "cc-by-4.0"
    assert SOURCES["mura"].license == "other"
