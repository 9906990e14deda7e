import shutil

import numpy as np
import pytest

from mura_hf import DatasetError, MuraImageProcessor
from mura_hf.data import OPEN_FEATURES, ViewDataset, load_grazpedwri

from .conftest import all_rows, check_patients


@pytest.fixture
def changed(grazpedwri, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(grazpedwri[0], tmp_path / "copy")


def test_rows_are_those_of_the_table(grazpedwri, capsys):
    root, records, boxes = grazpedwri
    datasets = load_grazpedwri(root)
    assert set(datasets["train"].features) == set(OPEN_FEATURES)
    assert check_patients(datasets) == 40
    rows = {row["image"]["path"].rsplit("/", 1)[-1][:-4]: row for row in all_rows(datasets)}
    assert set(rows) == {record["filestem"] for record in records}
    broken = {(r["patient_id"], r["study_number"]) for r in records if r["fracture_visible"]}
    for record in records:
        row = rows[record["filestem"]]
        flags = [bool(record[name]) for name in ("fracture_visible", "metal", "cast")]
        assert [row["fracture"], row["hardware"], row["cast"]] == flags
        assert row["patient_id"] == str(record["patient_id"])
        assert row["study_id"] == f"{record['patient_id']}/{record['study_number']}"
        assert row["label"] == ((record["patient_id"], record["study_number"]) in broken)
        if row["fracture"]:
            np.testing.assert_allclose(row["boxes"], [boxes[record["filestem"]]], atol=1)
        else:
            assert row["boxes"] == []  # metal and letters have boxes too, but are not abnormal
    printed = capsys.readouterr().err
    assert f"images                {len(records):9} of   20327" in printed
    assert "patients                     40 of    6091" in printed


def test_hardware_may_count_as_abnormal(grazpedwri):
    root, records, boxes = grazpedwri
    rows = all_rows(load_grazpedwri(root, abnormal=["fracture", "hardware"]))
    either = {(r["patient_id"], r["study_number"]) for r in records if r["fracture_visible"] or r["metal"]}
    assert {tuple(map(int, row["study_id"].split("/"))) for row in rows if row["label"]} == either
    assert sum(len(row["boxes"]) for row in rows) == len(boxes)


def test_16_bit_files_are_read_with_their_boxes(grazpedwri):
    rows = load_grazpedwri(grazpedwri[0])["dev"]
    views = ViewDataset(rows, MuraImageProcessor(size={"height": 64, "width": 64}))
    assert [views[index]["regions"].any().item() for index in range(len(rows))] == list(map(bool, rows["boxes"]))
    assert views[0]["pixel_values"].std() > 0.3


def test_unlisted_images_are_reported(changed, capsys):
    shutil.copy(sorted(changed.glob("images_part1/*.png"))[0], changed / "images_part1" / "more.png")
    load_grazpedwri(changed)
    assert "1 images that dataset.csv does not name are ignored, such as more" in capsys.readouterr().err


class TestRefusals:
    def test_a_missing_or_repeated_image(self, changed):
        image = sorted(changed.glob("images_part1/*.png"))[0]
        copy = shutil.copy(image, changed / "images_part2" / image.name)
        with pytest.raises(DatasetError, match="exists 2 times"):
            load_grazpedwri(changed)
        image.unlink()
        copy.unlink()
        with pytest.raises(DatasetError, match=f"{image.stem}, but there is no such image"):
            load_grazpedwri(changed)

    def test_an_invalid_table(self, changed):
        file = changed / "dataset.csv"
        text = file.read_text(encoding="utf-8-sig")
        for content, message in (
            (text.replace("_M009,1,", "_M009,,", 1), "patient_id is '', but must be a number"),
            (text + text.splitlines()[3], "twice"),
        ):
            file.write_text(content)
            with pytest.raises(DatasetError, match=message):
                load_grazpedwri(changed)
        file.unlink()
        with pytest.raises(DatasetError, match="give the folder of GRAZPEDWRI-DX"):
            load_grazpedwri(changed)
