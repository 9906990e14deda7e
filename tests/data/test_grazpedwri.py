import shutil

import numpy as np
import pytest
from datasets import Image

from mura_hf import DatasetError, MuraImageProcessor
from mura_hf.data import OPEN_FEATURES, ViewDataset, load_grazpedwri

from ..open_trees import write_grazpedwri


@pytest.fixture(scope="module")
def graz(tmp_path_factory):
    root = tmp_path_factory.mktemp("grazpedwri")
    return root, *write_grazpedwri(root)


@pytest.fixture
def changed(graz, tmp_path):
    return shutil.copytree(graz[0], tmp_path / "copy")


def _all(datasets):
    return [row for rows in datasets.values() for row in rows.cast_column("image", Image(decode=False))]


def test_rows_are_those_of_the_table(graz, capsys):
    root, records, truth = graz
    datasets = load_grazpedwri(root)
    assert set(datasets["train"].features) == set(OPEN_FEATURES)
    rows = {row["image"]["path"].rsplit("/", 1)[-1][:-4]: row for row in _all(datasets)}
    assert set(rows) == {record["filestem"] for record in records}
    broken = {(r["patient_id"], r["study_number"]) for r in records if r["fracture_visible"]}
    for record in records:
        row = rows[record["filestem"]]
        assert row["fracture"] == bool(record["fracture_visible"])
        assert row["hardware"] == bool(record["metal"])
        assert row["cast"] == bool(record["cast"])
        assert row["patient_id"] == str(record["patient_id"])
        assert row["study_id"] == f"{record['patient_id']}/{record['study_number']}"
        assert row["label"] == ((record["patient_id"], record["study_number"]) in broken)
        if row["fracture"]:
            np.testing.assert_allclose(row["boxes"], [truth[record["filestem"]]], atol=1)
        else:
            assert row["boxes"] == []  # metal and letters are not what makes it abnormal
    told = capsys.readouterr().err
    assert f"images                {len(records):9} of   20327" in told
    assert "patients                     40 of    6091" in told


def test_patients_are_never_split(graz):
    patients = [set(rows["patient_id"]) for rows in load_grazpedwri(graz[0]).values()]
    assert all(patients)
    assert sum(map(len, patients)) == len(set.union(*patients)) == 40


def test_hardware_may_count(graz):
    root, records, truth = graz
    rows = _all(load_grazpedwri(root, abnormal=["fracture", "hardware"]))
    either = {(r["patient_id"], r["study_number"]) for r in records if r["fracture_visible"] or r["metal"]}
    assert {tuple(map(int, row["study_id"].split("/"))) for row in rows if row["label"]} == either
    assert sum(len(row["boxes"]) for row in rows) == len(truth)


def test_sixteen_bits_are_read_and_boxes_lie_on_them(graz):
    rows = load_grazpedwri(graz[0])["train"]
    views = ViewDataset(rows, MuraImageProcessor(size={"height": 64, "width": 64}))
    marked = [views[index]["regions"].any().item() for index in range(len(rows))]
    assert marked == [bool(boxes) for boxes in rows["boxes"]]
    assert views[0]["pixel_values"].std() > 0.3


class TestRefusals:
    def test_a_missing_picture_is_named(self, changed):
        gone = sorted(changed.glob("images_part1/*.png"))[0]
        gone.unlink()
        with pytest.raises(DatasetError, match=f"{gone.stem}, but there is no such image"):
            load_grazpedwri(changed)

    def test_a_picture_that_is_there_twice(self, changed):
        twice = sorted(changed.glob("images_part1/*.png"))[0]
        shutil.copy(twice, changed / "images_part2")
        with pytest.raises(DatasetError, match="exists 2 times"):
            load_grazpedwri(changed)

    def test_a_patient_that_is_not_known(self, changed):
        file = changed / "dataset.csv"
        file.write_text(file.read_text(encoding="utf-8-sig").replace("_M009,1,", "_M009,,", 1))
        with pytest.raises(DatasetError, match="patient_id is '', but must be a number"):
            load_grazpedwri(changed)

    def test_an_image_listed_twice(self, changed):
        file = changed / "dataset.csv"
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        file.write_text("\n".join([*lines, lines[3]]))
        with pytest.raises(DatasetError, match="twice"):
            load_grazpedwri(changed)

    def test_no_table(self, tmp_path):
        with pytest.raises(DatasetError, match="give the folder of GRAZPEDWRI-DX"):
            load_grazpedwri(tmp_path)


def test_pictures_that_the_table_does_not_name_are_told(changed, capsys):
    shutil.copy(sorted(changed.glob("images_part1/*.png"))[0], changed / "images_part1" / "more.png")
    load_grazpedwri(changed)
    assert "1 images that dataset.csv does not name are ignored, such as more" in capsys.readouterr().err
