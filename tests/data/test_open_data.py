import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mura_hf import DatasetError, MuraImageProcessor, read_radiograph
from mura_hf.data import OPEN_FEATURES, ViewDataset, load_fracatlas, load_grazpedwri

from .conftest import all_rows, check_patients

REAL = Path(__file__).parents[3] / "shared" / "fracatlas"


class TestFracatlas:
    def test_rows_are_those_of_the_table(self, fracatlas, capsys):
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
            expected = [boxes[row["study_id"]]] if row["fracture"] else np.zeros((0, 4))
            np.testing.assert_allclose(np.reshape(row["boxes"], (-1, 4)), expected, atol=1)
        assert "images                      200 of    4083" in capsys.readouterr().err

    def test_blocks_are_never_split_and_valid_is_independent_of_the_seed(self, fracatlas):
        first, second = (
            load_fracatlas(fracatlas[0], dev_fraction=0.15, calib_fraction=0.15, seed=seed) for seed in (0, 1)
        )
        assert check_patients(first) == check_patients(second) == 10
        assert first["valid"]["study_id"] == second["valid"]["study_id"]
        assert first["dev"]["study_id"] != second["dev"]["study_id"]

    def test_options(self, fracatlas):
        root, records, boxes = fracatlas
        assert {row["region"] for row in all_rows(load_fracatlas(root, ["shoulder"]))} == {"shoulder"}
        both = all_rows(load_fracatlas(root, abnormal=["fracture", "hardware"]))
        assert sum(row["label"] for row in both) == sum(bool(r["fractured"] or r["hardware"]) for r in records)
        assert sum(len(row["boxes"]) for row in both) == len(boxes)
        hardware = all_rows(load_fracatlas(root, abnormal=["hardware"]))
        assert not any(row["boxes"] for row in hardware)  # boxes are those of fractures
        folds = [load_fracatlas(root, fold=fold, n_folds=3)["dev"]["patient_id"] for fold in range(3)]
        assert sum(len(set(fold)) for fold in folds) == len(set().union(*folds))
        for options, message in (
            ({"regions": ["knee"]}, "knee"),
            ({"regions": "hand"}, "hand"),
            ({"abnormal": []}, "list"),
        ):
            with pytest.raises(ValueError, match=message):
                load_fracatlas(root, **options)

    def test_contradictions_are_refused(self, fracatlas, tmp_path):
        root = shutil.copytree(fracatlas[0], tmp_path, dirs_exist_ok=True)

        def refuses(message):
            with pytest.raises(DatasetError, match=message):
                load_fracatlas(root)

        file = sorted(root.glob("Annotations/YOLO/*.txt"))[0]
        text = file.read_text()
        for content, message in (
            (text * 2, "2 boxes, but fracture_count is 1"),
            (text.replace("0 ", "0 7", 1), "with values from 0 to 1"),
            ("0 a b c d", "not a list of boxes"),
        ):
            file.write_text(content)
            refuses(message)
        file.write_text(text)
        image = sorted(root.glob("images/Fractured/*.jpg"))[0]
        os.rename(image, root / "images" / "Non_fractured" / image.name)
        refuses("wrong folder")
        (root / "images" / "Non_fractured" / image.name).unlink()
        refuses(rf"images that do not exist \(1\): {image.stem}; get a complete copy")
        table = root / "dataset.csv"
        lines = table.read_text().splitlines()
        for content, message in (
            ([lines[0].replace("hardware", "metal"), *lines[1:]], "lacks the columns hardware"),
            ([lines[0], lines[1], lines[1]], "twice"),
            (lines[:1], "no rows"),
            ([lines[0], lines[1].replace("0,1,0,0", "x,1,0,0")], "fracture_count is 'x'"),
            ([lines[0], lines[1].replace(",0", ",x", 1)], "must be 1, 0 or empty"),
            ([lines[0], lines[1] + ",5"], "number of values differs"),
        ):
            table.write_text("\n".join(content))
            refuses(message)
        table.unlink()
        refuses("give the folder of FracAtlas")

    @pytest.mark.skipif(not REAL.is_dir(), reason="no copy of FracAtlas beside the repository")
    def test_the_real_copy(self, capsys):
        rows = all_rows(load_fracatlas(REAL))
        regions = [row["region"].split("+") for row in rows]
        assert (len(rows), sum(row["label"] for row in rows), sum(row["hardware"] for row in rows)) == (3216, 568, 72)
        counts = {name: sum(name in region for region in regions) for name in ("hand", "shoulder", "leg", "hip")}
        assert counts == {"hand": 1193, "shoulder": 277, "leg": 1806, "hip": 266}
        assert sum("hand" in region and row["label"] for region, row in zip(regions, rows, strict=True)) == 341
        assert sum(len(row["boxes"]) for row in rows) == 715
        assert "fractured                   569 of     717" in capsys.readouterr().err
        for row in rows[::40]:
            height, width = read_radiograph(row["image"]["path"]).pixels.shape
            assert all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in row["boxes"])


class TestGrazpedwri:
    def test_rows_are_those_of_the_table(self, grazpedwri, capsys):
        root, records, boxes = grazpedwri
        datasets = load_grazpedwri(root)
        assert set(datasets["train"].features) == set(OPEN_FEATURES)
        assert check_patients(datasets) == 40
        rows = {Path(row["image"]["path"]).stem: row for row in all_rows(datasets)}
        assert set(rows) == {record["filestem"] for record in records}
        broken = {(r["patient_id"], r["study_number"]) for r in records if r["fracture_visible"]}
        for record in records:
            row = rows[record["filestem"]]
            flags = [bool(record[name]) for name in ("fracture_visible", "metal", "cast")]
            assert [row["fracture"], row["hardware"], row["cast"]] == flags
            assert row["patient_id"] == str(record["patient_id"])
            assert row["study_id"] == f"{record['patient_id']}/{record['study_number']}"
            assert row["label"] == ((record["patient_id"], record["study_number"]) in broken)
            # Metal and letters have boxes too, but are not abnormal.
            expected = [boxes[record["filestem"]]] if row["fracture"] else np.zeros((0, 4))
            np.testing.assert_allclose(np.reshape(row["boxes"], (-1, 4)), expected, atol=1)
        printed = capsys.readouterr().err
        assert f"images                {len(records):9} of   20327" in printed
        assert "patients                     40 of    6091" in printed

    def test_hardware_may_count_as_abnormal(self, grazpedwri):
        root, records, boxes = grazpedwri
        rows = all_rows(load_grazpedwri(root, abnormal=["fracture", "hardware"]))
        either = {(r["patient_id"], r["study_number"]) for r in records if r["fracture_visible"] or r["metal"]}
        assert {tuple(map(int, row["study_id"].split("/"))) for row in rows if row["label"]} == either
        assert sum(len(row["boxes"]) for row in rows) == len(boxes)

    def test_16_bit_files_are_read_with_their_boxes(self, grazpedwri):
        rows = load_grazpedwri(grazpedwri[0])["dev"]
        views = ViewDataset(rows, MuraImageProcessor(size={"height": 64, "width": 64}))
        assert [views[index]["regions"].any().item() for index in range(len(rows))] == list(map(bool, rows["boxes"]))
        assert views[0]["pixel_values"].std() > 0.3

    def test_differences_are_reported_or_refused(self, grazpedwri, tmp_path, capsys):
        root = shutil.copytree(grazpedwri[0], tmp_path / "copy")
        image = sorted(root.glob("images_part1/*.png"))[0]
        more = shutil.copy(image, image.with_name("more.png"))
        load_grazpedwri(root)
        assert "images that dataset.csv does not name are ignored: 1, such as more" in capsys.readouterr().err
        table = root / "dataset.csv"
        text = table.read_text(encoding="utf-8-sig")
        for content, message in (
            (text.replace("_M009,1,", "_M009,,", 1), "patient_id is '', but must be a number"),
            (text + text.splitlines()[3], "twice"),
        ):
            table.write_text(content)
            with pytest.raises(DatasetError, match=message):
                load_grazpedwri(root)
        table.write_text(text)
        os.rename(more, root / "images_part2" / image.name)
        with pytest.raises(DatasetError, match="exists 2 times"):
            load_grazpedwri(root)
        table.unlink()
        with pytest.raises(DatasetError, match="give the folder of GRAZPEDWRI-DX"):
            load_grazpedwri(root)
