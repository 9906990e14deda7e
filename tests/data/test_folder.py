import csv
import json
import shutil

import numpy as np
import pytest
from dicom_files import encode_dicom
from PIL import Image as PillowImage

from mura_hf import DatasetError, MuraImageProcessor, RadiographError, read_radiograph
from mura_hf.data import FEATURES, ViewDataset, check_images, load_data, load_folder

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
    assert "files that metadata.csv does not name are ignored: 4, such as p0/s0_0.png" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "p0/gone.png"}, r"files do not exist \(1\): p0/gone\.png \(line 2\); copy them"),
        ({"file_name": "../secret.png"}, r"without \.\. and relative"),
        ({"file_name": "p0/../../secret.png"}, r"without \.\. and relative"),
        ({"file_name": "..\\secret.png"}, r"without \.\. and relative"),
        ({"file_name": "/etc/passwd"}, r"without \.\. and relative"),
        ({"file_name": "C:\\films\\a.png"}, r"without \.\. and relative"),
        ({"file_name": ""}, "inside the folder"),
        ({"label": "healthy"}, "line 2: label is 'healthy'"),
        ({"label": "abnormal"}, "study p0/0 has label 1 and 0"),
        ({"body_part": "knee"}, "body_part is 'knee'"),
        ({"body_part": "hand"}, "study p0/0 has body_part hand and wrist"),
        ({"patient_id": " "}, "line 2: patient_id is empty"),
        ({"file_name": "p0/s0_1.png"}, r"p0/s0_1\.png twice"),
        ({"file_name": "./p0/s0_1.png"}, r"p0/s0_1\.png twice"),
    ],
)
def test_invalid_rows_are_named(folder, change, message):
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
    _write(root, [{**record, "file_name": f"gone/{number}.png"} for number, record in enumerate(records)])
    with pytest.raises(DatasetError, match=r"files do not exist \(120\): gone/0\.png \(line 2\), .*and 100 more"):
        load_folder(root)
    _write(
        root,
        [{**records[0], "study_id": "b/c", "patient_id": "a"}, {**records[1], "study_id": "c", "patient_id": "a/b"}],
    )
    with pytest.raises(DatasetError, match="study a/b/c has patient_id a and a/b"):
        load_folder(root)
    _write(root, records, "label")
    with pytest.raises(
        DatasetError, match="lacks the columns label; its first line has file_name, study_id, patient_id"
    ):
        load_folder(root)
    with pytest.raises(DatasetError, match=r"It contains nothing\. For your own radiographs, add metadata\.csv"):
        load_folder(tmp_path_factory.mktemp("empty"))


@pytest.mark.parametrize(
    ("separator", "encoding"),
    [(";", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16"), (",", "utf-16-le"), (";", "cp1252")],
)
def test_tables_of_spreadsheets(folder, separator, encoding):
    root, _ = folder
    expected = all_rows(load_folder(root))
    table = root / "metadata.csv"
    lines = [line.replace(",", separator).replace("/", "\\") for line in table.read_text().splitlines()]
    lines[0] = lines[0].replace("label", " Label ")
    if encoding == "cp1252":
        lines[1] = lines[1].replace("p0", "pü")
    content = "\r\n".join(["sep=;"] * (encoding == "utf-8") + lines).encode(encoding)
    table.write_bytes(content)
    refusals = {"cp1252": "neither UTF-8 nor UTF-16 text", "utf-16-le": "zero bytes, as UTF-16 text without its mark"}
    if encoding in refusals:
        with pytest.raises(DatasetError, match=refusals[encoding]):
            load_folder(root)
    else:
        assert all_rows(load_folder(root)) == expected


def test_json_lines(folder):
    root, records = folder
    expected = all_rows(load_folder(root))
    (root / "metadata.csv").unlink()
    values = [{**record, "label": int(record["label"] in ("abnormal", "1"))} for record in records]
    values[0]["body_part"], table = "XR_WRIST", root / "metadata.jsonl"
    table.write_text("\n".join(map(json.dumps, values)) + "\n\n")
    assert load_data(root)[1].key == "folder"
    assert all_rows(load_folder(root)) == expected
    for line, message in (
        ("{", "has no JSON object in line 121"),
        ("[1]", "line 121"),
        ('{"a": 1}', "line 121: file_name"),
    ):
        table.write_text("\n".join([*map(json.dumps, values), line]))
        with pytest.raises(DatasetError, match=message):
            load_folder(root)


@pytest.mark.parametrize("kind", ["files", "folders", "root"])
def test_links(folder, kind, tmp_path_factory):
    """As in a snapshot of the Hub, or in a working tree of DVC."""
    root, _ = folder
    store, snapshot = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("snapshots") / "films"
    if kind == "root":
        snapshot.symlink_to(root)
    else:
        snapshot.mkdir()
        shutil.copy(root / "metadata.csv", snapshot)
    for number, file in enumerate(sorted(root.rglob("*.png")) if kind == "files" else ()):
        shutil.move(file, store / f"{number:032x}")
        (snapshot / file.relative_to(root)).parent.mkdir(exist_ok=True)
        (snapshot / file.relative_to(root)).symlink_to(store / f"{number:032x}")
    for place in root.glob("p*") if kind == "folders" else ():
        (snapshot / place.name).symlink_to(place)
    rows = all_rows(load_folder(snapshot))
    assert len(rows) == 120
    assert all(row["image"]["path"].startswith(str(snapshot)) for row in rows)


def test_class_folders(folder, capsys):
    root, records = folder
    (root / "metadata.csv").unlink()
    for record in records:
        label = "abnormal" if record["label"] in ("abnormal", "1") else "normal"
        target = root / label / record["patient_id"]
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(root / record["file_name"], target)
    for name, content in {
        "normal/notes.txt": b"x",
        "normal/x.heic": b"\0\0\0\x18ftypheic",
        "other/a.png": b"x",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    datasets, source = load_data(root)
    assert source.key == "folder"
    printed = capsys.readouterr().err
    assert "has no patient_id, so every study counts as a patient of its own" in printed
    assert "files that are neither in normal nor in abnormal are ignored: 1, such as other/a.png" in printed
    rows = all_rows(datasets)
    assert len(rows) == len({row["study_id"] for row in rows}) == 121
    assert all(row["label"] == row["study_id"].startswith("abnormal/") for row in rows)
    with pytest.raises(RadiographError, match=r"1 of 121 images in .* cannot be read.*\n  normal/x\.heic is HEIC"):
        check_images(datasets, progress=False)
    shutil.rmtree(root / "abnormal")
    (root / "abnormal").mkdir()
    with pytest.raises(DatasetError, match="abnormal contains no picture"):
        load_folder(root)


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
