import csv

import numpy as np
import pytest
from datasets import Image
from PIL import Image as PillowImage

from mura_hf import DatasetError, MuraImageProcessor, read_radiograph
from mura_hf.data import FEATURES, ViewDataset, load_folder
from mura_hf.phantoms import encode_dicom

RNG = np.random.default_rng(4)


@pytest.fixture
def folder(tmp_path):
    """Thirty patients with two studies of two views, one of 16 bits."""
    rows = []
    for patient in range(30):
        for study in range(2):
            for view in range(2):
                name = f"p{patient}/s{study}_{view}.png"
                pixels = RNG.integers(0, 256, (20, 24)).astype(np.uint16 if view else np.uint8) * (200 if view else 1)
                (tmp_path / f"p{patient}").mkdir(exist_ok=True)
                PillowImage.fromarray(pixels).save(tmp_path / name)
                label = ("normal", "abnormal", "0", "1")[(patient + study) % 2 + 2 * (patient % 2)]
                part = ("wrist", "", "Shoulder")[patient % 3]
                rows.append(
                    {
                        "file_name": name,
                        "label": label,
                        "study_id": study,
                        "patient_id": f"p{patient}",
                        "body_part": part,
                    }
                )
    _write(tmp_path, rows)
    return tmp_path, rows


def _write(root, rows, *without):
    with (root / "metadata.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, [name for name in rows[0] if name not in without], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _all(datasets):
    return [row for rows in datasets.values() for row in rows.cast_column("image", Image(decode=False))]


def test_rows_are_those_of_the_table(folder, capsys):
    root, records = folder
    datasets = load_folder(root)
    assert set(datasets["train"].features) == set(FEATURES)
    rows = {row["image"]["path"]: row for row in _all(datasets)}
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
    patients = [set(split["patient_id"]) for split in datasets.values()]
    assert all(patients)
    assert sum(map(len, patients)) == 30
    assert capsys.readouterr().err == ""
    assert len(_all(load_folder(root, ["wrist"]))) == 40


def test_without_patients_it_says_what_that_costs(folder, capsys):
    root, records = folder
    _write(
        root,
        [{**record, "study_id": f"{record['patient_id']}-{record['study_id']}"} for record in records],
        "patient_id",
    )
    rows = _all(load_folder(root))
    assert len({row["patient_id"] for row in rows}) == 60
    assert "every figure comes out too good" in capsys.readouterr().err
    _write(root, records, "patient_id", "study_id", "body_part")
    rows = _all(load_folder(root))
    assert len({row["study_id"] for row in rows}) == 120
    assert {row["body_part"] for row in rows} == {None}


def test_what_is_not_read_is_told(folder, capsys):
    root, records = folder
    _write(root, [{**record, "age": 9} for record in records[4:]])
    load_folder(root)
    told = capsys.readouterr().err
    assert "unknown columns are ignored: age" in told
    assert "4 files that metadata.csv does not name are ignored, such as p0/s0_0.png" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "p0/gone.png"}, r"line 2: p0/gone\.png does not exist"),
        ({"file_name": "../secret.png"}, "inside the folder"),
        ({"file_name": ""}, "inside the folder"),
        ({"label": "healthy"}, "line 2: label is 'healthy'"),
        ({"label": "abnormal"}, "study p0/0 has label 1 and 0"),
        ({"body_part": "knee"}, "body_part is 'knee'"),
        ({"patient_id": " "}, "line 2: patient_id is empty"),
        ({"file_name": "p0/s0_1.png"}, r"p0/s0_1\.png twice"),
    ],
)
def test_a_bad_row_is_named(change, message, folder):
    root, records = folder
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


def test_dicom_is_read_too(folder):
    root, records = folder
    for number, record in enumerate(records):
        if number % 3 == 0:
            pixels = RNG.integers(0, 4096, (30, 26)).astype(np.uint16)
            record["file_name"] = record["file_name"].replace(".png", ".dcm")
            (root / record["file_name"]).write_bytes(encode_dicom(pixels, bits_stored=12))
    _write(root, records)
    datasets = load_folder(root)
    processor = MuraImageProcessor(size={"height": 32, "width": 32})
    for rows in datasets.values():
        views = ViewDataset(rows, processor)
        assert all(views[index]["pixel_values"].std() > 0.1 for index in range(len(rows)))
        picture = rows[0]["image"]  # a path: Pillow could not open DICOM
        assert read_radiograph(picture["path"]).source_format in ("PNG", "DICOM")
