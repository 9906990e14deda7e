import io
import json
import re
import shutil
import tracemalloc
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest
from dicom_files import encode_dicom
from PIL import Image

from mura_hf import DatasetError, RadiographError, load_mura
from mura_hf.inference import StudyFile, find_studies, predict_rows, study_files
from mura_hf.inference.worklist import read_from_disk


@pytest.fixture
def tree(tmp_path, phantom_files):
    """Two studies of two views and one view, and files that are not views."""
    root = tmp_path / "films"
    for place in ("arm 10/one.png", "arm 2/b10.png", "arm 2/b2.png"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(phantom_files[0], root / place)
    for place in ("arm 2/.DS_Store", "notes.txt", "__MACOSX/arm 2/._b2.png", "arm 2/README"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(b"no film")
    return root


def _zip(folder, target):
    with zipfile.ZipFile(target, "w") as opened:
        for file in sorted(folder.rglob("*")):
            opened.write(file, file.relative_to(folder).as_posix())
    return target


def _names(studies):
    return {study.name: [file.name for file in study.files] for study in studies}


def test_each_folder_with_pictures_is_a_study(tree, tmp_path):
    studies = find_studies(tree)
    assert _names(studies) == {"arm 2": ["b2.png", "b10.png"], "arm 10": ["one.png"]}
    assert [study.name for study in studies] == ["arm 2", "arm 10"]
    assert {study.body_part for study in studies} == {None}
    packed = find_studies(_zip(tree, tmp_path / "films.zip"))
    assert _names(packed) == _names(studies)
    assert packed[0].files[0].content() == (tree / "arm 2" / "b2.png").read_bytes()
    # Images at the top are one study, named after the source.
    assert _names(find_studies(tree / "arm 2")) == {"arm 2": ["b2.png", "b10.png"]}
    assert _names(find_studies(_zip(tree / "arm 2", tmp_path / "left arm.zip"))) == {"left arm": ["b2.png", "b10.png"]}


def _encode(file_format, **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, file_format, **options)
    return buffer.getvalue()


PIXELS = np.random.default_rng(5).integers(0, 256, (60, 40), dtype=np.uint8)
DICOM = encode_dicom(PIXELS.astype(np.uint16) * 8, bits_stored=12)
HEIC = b"\0\0\0\x18ftypheic" + bytes(100)
VIEWS = {
    "a.jfif": _encode("JPEG"), "b.JPE": _encode("JPEG"), "c.tif": _encode("TIFF"), "d.bmp": _encode("BMP"),
    "e.webp": _encode("WebP"), "f.IMA": DICOM, "g.dic": DICOM, "h.dcm_": DICOM, "i": DICOM, "k.txt": DICOM,
    "l.tmp": _encode("PNG"), "1.2.840.10008": DICOM,
}  # fmt: skip
REFUSED = {
    "m.heic": (HEIC, "m.heic is HEIC, which is not supported; save it as JPEG or PNG."),
    "n.photo": (HEIC, "n.photo is HEIC, which is not supported"),
    "o.pdf": (b"%PDF-1.7 ", "o.pdf is PDF, which is not supported"),
    "p.zip": (b"PK\3\4" + bytes(90), "p.zip is an archive, which is not supported; unpack it."),
    "q.tif": (b"Dear doctor", "q.tif is not a PNG, JPEG, TIFF, BMP, WebP or DICOM file"),
    "r": (bytes(700), "r is not a PNG, JPEG"),
    "s.ima": (b"", "s.ima is empty"),
    "t.raw": (bytes(range(256)) * 4, "t.raw is not a PNG, JPEG"),
}
PASSED_OVER = {
    "notes": b"Befund: unauff\xc3\xa4llig", "notes.txt": "unauffällig".encode("latin-1"), "README.md": b"# Films",
    "list.xlsx": b"PK\3\4" + bytes(90), ".hidden.png": b"x", "Thumbs.db": bytes(9), "DICOMDIR": DICOM,
    "report.log": "Bericht".encode("utf-16"),
}  # fmt: skip


@pytest.mark.parametrize("source", ["folder", "ZIP file"])
def test_the_content_decides_what_a_view_is_and_nothing_disappears(source, predictor, tmp_path):
    folder = tmp_path / "films" / "study"
    folder.mkdir(parents=True)
    refused = {name: content for name, (content, _) in REFUSED.items()}
    for name, content in {**VIEWS, **refused, **PASSED_OVER}.items():
        (folder / name).write_bytes(content)
    for name in ("no files", "texts", "photos"):
        (folder.parent / name).mkdir()
    (folder.parent / "texts" / "notes.txt").write_text("no film")
    (folder.parent / "photos" / "hand.heic").write_bytes(HEIC)
    (folder.parent / "model.bin").write_bytes(bytes(range(99)))  # no study, since the studies are below
    studies = find_studies(folder.parent if source == "folder" else _zip(folder.parent, tmp_path / "films.zip"))
    assert [study.name for study in studies] == ["no files", "photos", "study", "texts"]
    assert {file.name for file in studies[2].files} == {*VIEWS, *REFUSED}
    assert {file.name for file in studies[2].files if not file.readable} == {*REFUSED}
    empty, photos, row, texts = predict_rows(predictor, studies)
    assert row.n_views == len(VIEWS)
    assert row.error is None
    for (_, message), sentence in zip(REFUSED.values(), row.left_out, strict=True):
        assert message in sentence
    assert empty.error == texts.error == "The folder contains no picture."
    assert (photos.error, len(photos.left_out)) == ("No view could be read.", 1)


@pytest.mark.parametrize("source", ["table", "folder", "ZIP file"])
@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["file_name,study_id,patient_id", "a.png,1,p1", "b.png,1,p2"], {"p1/1": ["a.png"], "p2/1": ["b.png"]}),
        (["file_name;study;patient", "sub\\a.png;1;p1", "b.png;1;p1"], {"1": ["a.png", "b.png"]}),
        (["path\tpatient_id\tstudy_id", "a.png\tp\t1", "sub/a.png\tp\t2"], {"1": ["a.png"], "2": ["a.png"]}),
        (["label,file_name", "normal,a.png", "normal,b.png"], {"a.png": ["a.png"], "b.png": ["b.png"]}),
        (["study_id,image,patient", "1,a.png,x", "1,b.png,y", "2,sub/a.png,x"],
         {"x/1": ["a.png"], "x/2": ["a.png"], "y/1": ["b.png"]}),
        (["file_name,study_id,patient_id", "a.png,1,p1", "gone.png,1,p1"], {"1": ["a.png", "gone.png"]}),
    ],
)  # fmt: skip
def test_a_study_is_patient_and_study(source, lines, names, tmp_path):
    folder = tmp_path / "films"
    (folder / "sub").mkdir(parents=True)
    pictures = {row.replace("\\", "/") for row in re.findall(r"[\w\\/]+\.png", " ".join(lines))} - {"gone.png"}
    for name in pictures:
        (folder / name).write_bytes(VIEWS["l.tmp"])
    encoding = "utf-16" if ";" in lines[0] else "utf-8-sig"
    (folder / "metadata.csv").write_bytes("\r\n".join(lines).encode(encoding))
    (folder / ("sub" if "sub" in " ".join(lines) else ".") / "notes.txt").write_text("no film")
    studies = find_studies(
        {"folder": folder, "table": folder / "metadata.csv"}.get(source) or _zip(folder, tmp_path / "films.zip")
    )
    assert _names(study for study in studies if study.files) == names
    for study in studies:
        for file in study.files:
            if file.name != "gone.png":
                assert read_from_disk(file, study).source_format == "PNG"
            else:
                with pytest.raises(RadiographError, match=r"gone\.png (does not exist|cannot be extracted)"):
                    read_from_disk(file, study)


def test_tables_below_and_files_that_a_table_does_not_name(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name in ("a.png", "b.png"):
            (tmp_path / split / name).write_bytes(VIEWS["l.tmp"])
        records = [{"file_name": "a.png", "study_id": "1", "body_part": "XR_HAND"}]
        (tmp_path / split / "metadata.jsonl").write_text("".join(f"{json.dumps(record)}\n\n" for record in records))
    found = find_studies(tmp_path)
    assert _names(found) == {"test": ["b.png"], "test/1": ["a.png"], "train": ["b.png"], "train/1": ["a.png"]}
    assert [study.body_part for study in found] == [None, "hand"] * 2
    assert _names(find_studies(_zip(tmp_path, tmp_path.with_suffix(".zip")))) == _names(found)


def test_a_tree_of_mura_gives_the_studies_of_load_mura_without_their_labels(phantom_tree):
    rows = load_mura(phantom_tree)["valid"]
    studies = find_studies(phantom_tree / "valid")
    assert {study.name for study in studies} == set(rows["study_id"])
    assert all(study.name.startswith(f"XR_{study.body_part.upper()}/") for study in studies)
    assert not any("positive" in study.name or "negative" in study.name for study in studies)
    listed = find_studies(phantom_tree / "valid_image_paths.csv")
    assert [(study.name, study.body_part) for study in listed] == [(study.name, study.body_part) for study in studies]
    assert all(file.path.is_file() for study in listed for file in study.files)
    for study in find_studies(phantom_tree / "valid" / "XR_WRIST"):
        assert study.body_part == "wrist"
        assert not study.name.endswith(("positive", "negative"))


def test_the_same_study_of_two_trees_stays_two(phantom_tree, tmp_path):
    study = next(phantom_tree.glob("valid/*/*/*"))
    place = study.relative_to(phantom_tree / "valid")
    for copy in ("a", "b"):
        shutil.copytree(study, tmp_path / copy / place)
    found = find_studies(tmp_path)
    bare = str(place).rpartition("_")[0]  # without the label
    assert [one.name for one in found] == [f"a/{bare}", f"b/{bare}"]


def test_a_csv_file_with_a_header(tree):
    (tree / "list.csv").write_text(
        "path,study_id,body_part\narm 2/b2.png,s1,Wrist\narm 10/one.png,s1,wrist\narm 2/b10.png,s2,\n"
    )
    first, second = find_studies(tree / "list.csv")
    assert (first.name, first.body_part, [file.name for file in first.files]) == ("s1", "wrist", ["b2.png", "one.png"])
    assert (second.name, second.body_part) == ("s2", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,study_id\na.png,s1\n", "has no column `path`"),
        ("path,study_id\na.png\n", "line 2: has fewer cells"),
        ("path,study_id,body_part\na.png,s1,knee\n", "line 2: unknown body part 'knee'"),
        ("path,study_id\n,s1\n", "line 2: has no file name"),
        ("path,study_id\na.png,\n", "line 2: has no study name"),
        ("path,study_id\n\na.png,s1\n\nb.png,\n", "line 5: has no study name"),
        ("path,patient_id\na.png,1\nb.png,\n", "line 3: has no patient name"),
        ("path,study,body_part\na.png,1,wrist\nb.png,1,hand\n", "study 1 has the body parts wrist and hand"),
        ("path,study,patient\na.png,b/c,a\nb.png,b/c,d\nc.png,c,a/b\n", "two studies would be called a/b/c"),
        ("path;study\na.png;1\nb.png\n", "line 3: has fewer cells"),
        ("a.png;b.png\n", "has no column `path`"),
        (f"path,study_id\n{'a' * 5000}.png,s1\n", "line 2: the path cannot be looked up"),
        ("", "holds no picture"),
    ],
)
def test_errors_of_a_csv_file_name_the_line(text, message, tmp_path):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        find_studies(tmp_path / "list.csv")


def test_missing_and_empty_sources(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        find_studies(tmp_path / "gone")
    with pytest.raises(DatasetError, match="holds no picture"):
        find_studies(tmp_path)
    (tmp_path / "film.png").write_bytes(b"film")
    with pytest.raises(DatasetError, match="neither a folder nor a ZIP or CSV"):
        find_studies(tmp_path / "film.png")


def test_limits_of_folders_and_zip_files(tree, tmp_path, monkeypatch):
    packed = _zip(tree, tmp_path / "films.zip")
    file = find_studies(packed)[0].files[0]
    monkeypatch.setattr(study_files, "MAX_BYTES", 100)  # whatever the ZIP file says
    with pytest.raises(RadiographError, match=r"b2\.png is larger than"):
        file.content()
    monkeypatch.setattr(study_files, "MAX_FILES", 2)
    for source in (tree, packed):
        with pytest.raises(DatasetError, match="more than 2 files"):
            find_studies(source)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_unpacked_up_to_the_limit_only(method, tmp_path):
    good, packed, size = _encode("PNG"), tmp_path / "films.zip", 1 << 27
    with zipfile.ZipFile(packed, "w", method) as opened:
        opened.writestr("s/bomb.png", bytes(size if method != zipfile.ZIP_STORED else 1 << 21))
        opened.writestr("s/good.png", good)
    bomb, view = find_studies(packed)[0].files
    tracemalloc.start()
    with pytest.raises(RadiographError, match=r"bomb\.png is larger than 1 MiB"):
        bomb.content(1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert view.content() == good
    content = packed.read_bytes()
    with zipfile.ZipFile(packed) as opened:
        crc = opened.getinfo("s/good.png").CRC.to_bytes(4, "little")
    packed.write_bytes(content.replace(crc, bytes(4)))
    with pytest.raises(RadiographError, match=r"good\.png cannot be extracted from films\.zip"):
        view.content()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_methods_are_refused(method, tmp_path):
    """Of a member of BZIP2 or LZMA, `zipfile` unpacks everything: 2 kB became 5 GB."""
    packed = tmp_path / "films.zip"
    with zipfile.ZipFile(packed, "w", method) as opened:
        opened.writestr("a.png", _encode("PNG"))
    (file,) = find_studies(packed)[0].files
    with pytest.raises(RadiographError, match=r"a\.png cannot be extracted .* compressed in a way that is not read"):
        file.content()
    with zipfile.ZipFile(packed, "a", method) as opened:
        opened.writestr("metadata.csv", "path\na.png\n")
    with pytest.raises(DatasetError, match=r"metadata\.csv is compressed in a way that is not read here"):
        find_studies(packed)


@pytest.mark.parametrize(
    ("lines", "words"), [("a\n" * 300, "more than 1,000 files"), ("\n" * 3000, "0 MiB; split it")]
)
def test_many_tables_in_a_zip_file_are_limited_together(lines, words, tmp_path, monkeypatch):
    monkeypatch.setattr(study_files, "MAX_FILES", 1000)
    monkeypatch.setattr(study_files, "_MAX_TABLE", 10_000)
    for count, error in ((3, None), (9, words)):
        with zipfile.ZipFile(tmp_path / "films.zip", "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("s/a.png", _encode("PNG"))
            for number in range(count):
                opened.writestr(f"{number}/metadata.csv", f"path\n{lines}")
        with nullcontext() if error is None else pytest.raises(DatasetError, match=error):
            find_studies(tmp_path / "films.zip")


def test_damaged_and_missing_members(tree, tmp_path):
    packed = _zip(tree, tmp_path / "films.zip")
    content = bytearray(packed.read_bytes())
    content[content.index(b"\x89PNG") + 60] ^= 255
    packed.write_bytes(content)
    file = find_studies(packed)[1].files[0]
    with pytest.raises(RadiographError, match=r"one\.png cannot be extracted from films\.zip"):
        file.content()
    with pytest.raises(RadiographError, match=r"cannot be extracted from films\.zip, which has no file of this name"):
        StudyFile("x.png", packed, "nowhere/x.png").content()


def test_names_that_archives_write(tmp_path, phantom_files):
    (tmp_path / "s1").mkdir()
    for name in ("1.2.840.113619.2.55", "1²2.png", "IM000001"):
        shutil.copy(phantom_files[0], tmp_path / "s1" / name)
    assert len(find_studies(tmp_path)[0].files) == 3


def test_links_to_folders_are_an_error(tree, tmp_path):
    (tree / "more").symlink_to(tmp_path)
    with pytest.raises(DatasetError, match="is a link to a folder"):
        find_studies(tree)


def test_studies_that_differ_only_in_their_label_stay_two(tmp_path, phantom_files):
    for sign in ("positive", "negative"):
        (tmp_path / f"p1/study1_{sign}").mkdir(parents=True)
        shutil.copy(phantom_files[0], tmp_path / f"p1/study1_{sign}" / "a.png")
    assert len({study.name for study in find_studies(tmp_path)}) == 2
