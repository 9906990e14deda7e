import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Image

from mura_hf import DatasetError, read_radiograph
from mura_hf.data import OPEN_FEATURES, load_fracatlas

from ..open_trees import write_fracatlas

REAL = Path(__file__).parents[3] / "shared" / "fracatlas"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    root = tmp_path_factory.mktemp("fracatlas")
    return root, *write_fracatlas(root)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    write_fracatlas(root, n=80, size=48)
    return root


@pytest.fixture
def changed(small, tmp_path):
    return shutil.copytree(small, tmp_path, dirs_exist_ok=True)


def _all(datasets):
    return [row for rows in datasets.values() for row in rows.cast_column("image", Image(decode=False))]


def test_rows_are_those_of_the_table(atlas, capsys):
    root, records, truth = atlas
    datasets = load_fracatlas(root)
    rows = {row["study_id"]: row for row in _all(datasets)}
    assert set(rows) == {record["image_id"][:-4] for record in records}
    for record in records:
        row = rows[record["image_id"][:-4]]
        assert row["label"] == int(row["fracture"]) == record["fractured"]
        assert row["hardware"] == bool(record["hardware"])
        assert row["region"] == ("shoulder" if record["shoulder"] else "hand")
        shoulder = datasets["train"].features["body_part"].str2int("shoulder")
        assert row["body_part"] == (shoulder if record["shoulder"] else None)
        assert row["patient_id"] == f"block{int(row['study_id'][3:]) // 20:04d}"
        if row["fracture"]:
            np.testing.assert_allclose(row["boxes"], [truth[row["study_id"]]], atol=1)
        else:
            assert row["boxes"] == []
    assert set(datasets["train"].features) == set(OPEN_FEATURES)
    assert "images                      260 of    4083" in capsys.readouterr().err


def test_blocks_are_never_split_and_valid_stays(atlas):
    root, *_ = atlas
    first, second = (load_fracatlas(root, dev_fraction=0.15, calib_fraction=0.15, seed=seed) for seed in (0, 1))
    for datasets in (first, second):
        blocks = [set(rows["patient_id"]) for rows in datasets.values()]
        assert all(blocks)
        assert sum(map(len, blocks)) == len(set.union(*blocks))
    assert first["valid"]["study_id"] == second["valid"]["study_id"]
    assert first["dev"]["study_id"] != second["dev"]["study_id"]


def test_options(atlas):
    root, records, _ = atlas
    shoulders = _all(load_fracatlas(root, ["shoulder"]))
    assert {row["region"] for row in shoulders} == {"shoulder"}
    both = _all(load_fracatlas(root, abnormal=["fracture", "hardware"]))
    assert sum(row["label"] for row in both) == sum(bool(r["fractured"] or r["hardware"]) for r in records)
    single = _all(load_fracatlas(root, multiscan=False))
    assert len(single) == sum(not record["multiscan"] for record in records)
    folds = [load_fracatlas(root, fold=fold, n_folds=3)["dev"]["patient_id"] for fold in range(3)]
    assert sum(len(set(fold)) for fold in folds) == len(set().union(*folds))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"regions": ["knee"]}, "knee"), ({"regions": "hand"}, "hand"), ({"abnormal": []}, "list")],
)
def test_unknown_options_are_refused(options, message, atlas):
    with pytest.raises(ValueError, match=message):
        load_fracatlas(atlas[0], **options)


class TestRefusals:
    def test_a_missing_picture_is_named(self, changed):
        (changed / "images" / "Non_fractured" / "IMG0000000.jpg").unlink()
        with pytest.raises(DatasetError, match="IMG0000000, but there is no such image"):
            load_fracatlas(changed)

    def test_boxes_against_the_table(self, changed):
        file = sorted((changed / "Annotations" / "YOLO").glob("*.txt"))[0]
        text = file.read_text()
        file.write_text(text * 2)
        with pytest.raises(DatasetError, match="2 boxes, but fracture_count is 1"):
            load_fracatlas(changed)
        file.write_text(text.replace("0 ", "0 7", 1))
        with pytest.raises(DatasetError, match="with values from 0 to 1"):
            load_fracatlas(changed)
        file.write_text("0 a b c d")
        with pytest.raises(DatasetError, match="not a list of boxes"):
            load_fracatlas(changed)

    def test_a_picture_in_the_wrong_folder(self, changed):
        file = sorted((changed / "images" / "Fractured").glob("*.jpg"))[0]
        os.rename(file, changed / "images" / "Non_fractured" / file.name)
        with pytest.raises(DatasetError, match="wrong folder"):
            load_fracatlas(changed)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda lines: [lines[0].replace("hardware", "metal"), *lines[1:]], "lacks the columns hardware"),
            (lambda lines: [*lines, lines[5]], "twice"),
            (lambda lines: lines[:1], "no rows"),
            (lambda lines: [lines[0], lines[1].replace("0,1,0,0", "x,1,0,0"), *lines[2:]], "fracture_count is 'x'"),
            (lambda lines: [lines[0], lines[1].replace(",0", ",x", 1), *lines[2:]], "must be 1, 0 or empty"),
            (lambda lines: [lines[0], lines[1] + ",5", *lines[2:]], "number of values differs"),
        ],
    )
    def test_a_table_that_is_not_right(self, change, message, changed):
        file = changed / "dataset.csv"
        file.write_text("\n".join(change(file.read_text().splitlines())))
        with pytest.raises(DatasetError, match=message):
            load_fracatlas(changed)

    def test_no_table(self, tmp_path):
        with pytest.raises(DatasetError, match="give the folder of FracAtlas"):
            load_fracatlas(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="no copy of FracAtlas beside the repository")
def test_the_real_copy(capsys):
    datasets = load_fracatlas(REAL)
    rows = _all(datasets)
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
