import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mura_hf import DatasetError, read_radiograph
from mura_hf.data import OPEN_FEATURES, load_fracatlas

from .conftest import all_rows, check_patients

REAL = Path(__file__).parents[3] / "shared" / "fracatlas"


@pytest.fixture
def changed(fracatlas, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(fracatlas[0], tmp_path, dirs_exist_ok=True)


def test_rows_are_those_of_the_table(fracatlas, capsys):
    root, records, boxes = fracatlas
    datasets = load_fracatlas(root)
    assert set(datasets["train"].features) == set(OPEN_FEATURES)
    shoulder = datasets["train"].features["body_part"].str2int("shoulder")
    rows = {row["study_id"]: row for row in all_rows(datasets)}
    assert set(rows) == {record["image_id"][:-4] for record in records}
    for record in records:
        row = rows[record["image_id"][:-4]]
        assert row["label"] == int(row["fracture"]) == record["fractured"]
        assert row["hardware"] == bool(record["hardware"])
        assert row["region"] == ("shoulder" if record["shoulder"] else "hand")
        assert row["body_part"] == (shoulder if record["shoulder"] else None)
        assert row["patient_id"] == f"block{int(row['study_id'][3:]) // 20:04d}"
        if row["fracture"]:
            np.testing.assert_allclose(row["boxes"], [boxes[row["study_id"]]], atol=1)
        else:
            assert row["boxes"] == []
    assert "images                      200 of    4083" in capsys.readouterr().err


def test_blocks_are_never_split_and_valid_is_independent_of_the_seed(fracatlas):
    first, second = (
        load_fracatlas(fracatlas[0], dev_fraction=0.15, calib_fraction=0.15, seed=seed) for seed in (0, 1)
    )
    assert check_patients(first) == check_patients(second) == 10
    assert first["valid"]["study_id"] == second["valid"]["study_id"]
    assert first["dev"]["study_id"] != second["dev"]["study_id"]


def test_options(fracatlas):
    root, records, boxes = fracatlas
    assert {row["region"] for row in all_rows(load_fracatlas(root, ["shoulder"]))} == {"shoulder"}
    both = all_rows(load_fracatlas(root, abnormal=["fracture", "hardware"]))
    assert sum(row["label"] for row in both) == sum(bool(r["fractured"] or r["hardware"]) for r in records)
    assert sum(len(row["boxes"]) for row in both) == len(boxes)
    hardware = all_rows(load_fracatlas(root, abnormal=["hardware"]))
    assert not any(row["boxes"] for row in hardware)  # boxes are those of fractures
    single = all_rows(load_fracatlas(root, multiscan=False))
    assert len(single) == sum(not record["multiscan"] for record in records)
    folds = [load_fracatlas(root, fold=fold, n_folds=3)["dev"]["patient_id"] for fold in range(3)]
    assert sum(len(set(fold)) for fold in folds) == len(set().union(*folds))
    for options, message in (
        ({"regions": ["knee"]}, "knee"),
        ({"regions": "hand"}, "hand"),
        ({"abnormal": []}, "list"),
    ):
        with pytest.raises(ValueError, match=message):
            load_fracatlas(root, **options)


class TestRefusals:
    def test_a_missing_image(self, changed):
        (changed / "images" / "Non_fractured" / "IMG0000000.jpg").unlink()
        with pytest.raises(DatasetError, match="IMG0000000, but there is no such image"):
            load_fracatlas(changed)

    def test_boxes_that_contradict_the_table(self, changed):
        file = sorted((changed / "Annotations" / "YOLO").glob("*.txt"))[0]
        text = file.read_text()
        for content, message in (
            (text * 2, "2 boxes, but fracture_count is 1"),
            (text.replace("0 ", "0 7", 1), "with values from 0 to 1"),
            ("0 a b c d", "not a list of boxes"),
        ):
            file.write_text(content)
            with pytest.raises(DatasetError, match=message):
                load_fracatlas(changed)

    def test_an_image_in_the_wrong_folder(self, changed):
        file = sorted((changed / "images" / "Fractured").glob("*.jpg"))[0]
        os.rename(file, changed / "images" / "Non_fractured" / file.name)
        with pytest.raises(DatasetError, match="wrong folder"):
            load_fracatlas(changed)

    def test_an_invalid_table(self, changed):
        file = changed / "dataset.csv"
        lines = file.read_text().splitlines()
        for content, message in (
            ([lines[0].replace("hardware", "metal"), *lines[1:]], "lacks the columns hardware"),
            ([*lines, lines[5]], "twice"),
            (lines[:1], "no rows"),
            ([lines[0], lines[1].replace("0,1,0,0", "x,1,0,0"), *lines[2:]], "fracture_count is 'x'"),
            ([lines[0], lines[1].replace(",0", ",x", 1), *lines[2:]], "must be 1, 0 or empty"),
            ([lines[0], lines[1] + ",5", *lines[2:]], "number of values differs"),
        ):
            file.write_text("\n".join(content))
            with pytest.raises(DatasetError, match=message):
                load_fracatlas(changed)
        file.unlink()
        with pytest.raises(DatasetError, match="give the folder of FracAtlas"):
            load_fracatlas(changed)


@pytest.mark.skipif(not REAL.is_dir(), reason="no copy of FracAtlas beside the repository")
def test_the_real_copy(capsys):
    rows = all_rows(load_fracatlas(REAL))
    regions = [row["region"].split("+") for row in rows]
    assert (len(rows), sum(row["label"] for row in rows), sum(row["hardware"] for row in rows)) == (3219, 569, 72)
    counts = {name: sum(name in region for region in regions) for name in ("hand", "shoulder", "leg", "hip")}
    assert counts == {"hand": 1196, "shoulder": 277, "leg": 1806, "hip": 266}
    assert sum("hand" in region and row["label"] for region, row in zip(regions, rows, strict=True)) == 342
    assert sum(len(row["boxes"]) for row in rows) == 716
    assert "fractured                   569 of     717" in capsys.readouterr().err
    for row in rows[::40]:
        height, width = read_radiograph(row["image"]["path"]).pixels.shape
        assert all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in row["boxes"])
