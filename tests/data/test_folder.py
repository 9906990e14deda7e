import csv

import numpy as np
import pytest
from dicom_files import encode_dicom
from PIL import Image as PillowImage

from mura_hf import DatasetError, MuraImageProcessor, read_radiograph
from mura_hf.data import FEATURES, ViewDataset, load_folder

from .conftest import all_rows, check_patients

RNG = np.random.default_rng(4)


@pytest.fixture
def folder(tmp_path):
    """Thirty patients with two studies of two views, one of which has 16 bits."""
    records = []
    for patient in range(30):
        (tmp_path / f"p{patient}").mkdir()
        for study in range(2):
            for view in range(2):
                name = f"p{patient}/s{study}_{view}.png"
                pixels = RNG.integers(0, 256, (20, 24)).astype(np.uint16 if view else np.uint8) * (200 if view else 1)
                PillowImage.fromarray(pixels).save(tmp_path / name)
                label = ("normal", "abnormal", "0", "1")[(patient + study) % 2 + 2 * (patient % 2)]
                record = {"file_name": name, "label": label, "study_id": study, "patient_id": f"p{patient}"}
                records.append({**record, "body_part": ("wrist", "", "Shoulder")[patient % 3]})
    _write(tmp_path, records)
    return tmp_path, records


def _write(root, records, *without):
    with (root / "metadata.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, [name for name in records[0] if name not in without], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)


def test_rows_are_those_of_the_table(folder, capsys):
    root, records = folder
    datasets = load_folder(root)
    assert set(datasets["train"].features) == set(FEATURES)
    assert check_patients(datasets) == 30
    rows = {row["image"]["path"]: row for row in all_rows(datasets)}
    assert len(rows) == 120
    parts = datasets["train"].features["body_part"]
    for record in records:
        row = rows[str((root / record["file_name"]).resolve())]
        assert row["label"] == (record["label"] in ("abnormal", "1"))
        assert row["patient_id"] == record["patient_id"]
        assert row["study_id"] == f"{record['patient_id']}/{record['study_id']}"
        part = record["body_part"].lower()
        assert row["body_part"] == (parts.str2int(part) if part else None)
    assert sorted({row["view"] for row in rows.values()}) == [1, 2]
    assert capsys.readouterr().err == ""
    assert len(all_rows(load_folder(root, ["wrist"]))) == 40


def test_missing_columns_and_their_warning(folder, capsys):
    root, records = folder
    named = [{**record, "study_id": f"{record['patient_id']}-{record['study_id']}"} for record in records]
    _write(root, named, "patient_id")
    assert len({row["patient_id"] for row in all_rows(load_folder(root))}) == 60
    assert "every figure comes out too good" in capsys.readouterr().err
    _write(root, records, "patient_id", "study_id", "body_part")
    rows = all_rows(load_folder(root))
    assert len({row["study_id"] for row in rows}) == 120
    assert {row["body_part"] for row in rows} == {None}


def test_ignored_columns_and_files_are_reported(folder, capsys):
    root, records = folder
    _write(root, [{**record, "age": 9} for record in records[4:]])
    load_folder(root)
    printed = capsys.readouterr().err
    assert "unknown columns are ignored: age" in printed
    assert "4 files that metadata.csv does not name are ignored, such as p0/s0_0.png" in printed


def test_invalid_rows_are_named(folder):
    root, records = folder
    for change, message in (
        ({"file_name": "p0/gone.png"}, r"line 2: p0/gone\.png does not exist"),
        ({"file_name": "../secret.png"}, "inside the folder"),
        ({"file_name": ""}, "inside the folder"),
        ({"label": "healthy"}, "line 2: label is 'healthy'"),
        ({"label": "abnormal"}, "study p0/0 has label 1 and 0"),
        ({"body_part": "knee"}, "body_part is 'knee'"),
        ({"patient_id": " "}, "line 2: patient_id is empty"),
        ({"file_name": "p0/s0_1.png"}, r"p0/s0_1\.png twice"),
    ):
        _write(root, [{**records[0], **change}, *records[1:]])
        with pytest.raises(DatasetError, match=message):
            load_folder(root)


def test_other_refusals(folder, tmp_path_factory):
    root, records = folder
    with pytest.raises(ValueError, match="knee"):
        load_folder(root, ["knee"])
    with pytest.raises(DatasetError, match="no study of elbow"):
        load_folder(root, ["elbow"])
    _write(root, records, "label")
    with pytest.raises(DatasetError, match="lacks the columns label"):
        load_folder(root)
    with pytest.raises(DatasetError, match=r"give the folder of radiographs with metadata\.csv"):
        load_folder(tmp_path_factory.mktemp("empty"))


def test_dicom_files(folder):
    root, records = folder
    for record in records[::3]:
        record["file_name"] = record["file_name"].replace(".png", ".dcm")
        pixels = RNG.integers(0, 4096, (30, 26)).astype(np.uint16)
        (root / record["file_name"]).write_bytes(encode_dicom(pixels, bits_stored=12))
    _write(root, records)
    rows = load_folder(root)["dev"]
    views = ViewDataset(rows, MuraImageProcessor(size={"height": 32, "width": 32}))
    assert all(views[index]["pixel_values"].std() > 0.1 for index in range(len(rows)))
    # The column has paths, since Pillow cannot open DICOM.
    assert {read_radiograph(image["path"]).source_format for image in rows["image"]} == {"PNG", "DICOM"}
