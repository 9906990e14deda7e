from dataclasses import replace

import pytest

from mura_hf import DatasetError
from mura_hf.data import SOURCES, describe_positive_class, detect_source, load_data


def test_each_dataset_is_detected_by_its_files(phantom_tree, fracatlas, grazpedwri):
    for key, root in (("phantoms", phantom_tree), ("fracatlas", fracatlas[0]), ("grazpedwri", grazpedwri[0])):
        datasets, source = load_data(root, dev_fraction=0.15, calib_fraction=0.15, seed=1)
        assert detect_source(root) is source is SOURCES[key]
        assert list(datasets) == ["train", "dev", "calib", "valid"]
    chosen, _ = load_data(fracatlas[0], regions=["shoulder"], abnormal=["hardware"])
    assert set(chosen["train"]["region"]) == {"shoulder"}
    with pytest.raises(ValueError, match="body_parts cannot be chosen for FracAtlas"):
        load_data(fracatlas[0], body_parts=["wrist"])


def test_other_folders_are_refused(tmp_path):
    for entries, found in (
        ((), "It contains nothing"),
        (("labels.csv", "p1/a.png", ".git/x"), r"It contains labels\.csv, p1/\. For your own radiographs"),
        (("train/fracture/a.png", "normal/b.png"), "It contains labels.csv, normal/, p1/, train/"),
        ([f"{number:02}.png" for number in range(30)], "17.png, 18.png, 19.png, and 14 more"),
    ):
        for entry in entries:
            (tmp_path / entry).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / entry).write_bytes(b"x")
        with pytest.raises(DatasetError, match=found) as raised:
            load_data(tmp_path)
        assert "MURA" not in str(raised.value)
        assert "add metadata.csv with the columns file_name and label" in str(raised.value)
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is a file; give a folder"):
        load_data(tmp_path / "labels.csv")
    (tmp_path / "dataset.csv").write_text("a,b\n")
    with pytest.raises(DatasetError, match="neither FracAtlas nor GRAZPEDWRI-DX"):
        load_data(tmp_path)


def test_credits_and_licenses():
    for key in ("fracatlas", "grazpedwri"):
        assert "CC BY 4.0" in SOURCES[key].credit
        assert SOURCES[key].license == "cc-by-4.0"
    assert SOURCES["mura"].license == "other"


@pytest.mark.parametrize("license", ["cc-by-sa-4.0", "", None])
def test_a_license_without_a_known_strictness_is_refused(license):
    with pytest.raises(ValueError, match=r"license is .*use one of apache-2.0, cc-by-4.0, other"):
        replace(SOURCES["folder"], license=license)


def test_descriptions_of_the_positive_class_in_records():
    written = SOURCES["fracatlas"].to_dict()
    assert written["abnormal_means"] == written["positive_class_description"] == describe_positive_class(written)
    assert describe_positive_class({"abnormal_means": "as in old records"}) == "as in old records"
    assert describe_positive_class({"key": "mura"}) == SOURCES["mura"].positive_class_description
    assert "fracture or hardware is visible" in describe_positive_class({"abnormal": ["fracture", "hardware"]})
    assert describe_positive_class({}) is None
