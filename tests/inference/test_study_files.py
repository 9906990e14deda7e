import shutil
import zipfile

import pytest

from mura_hf import DatasetError, RadiographError, load_mura
from mura_hf.inference import StudyFile, find_studies, study_files


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
        ("path\n\nfolder/a.png\nb.png\n", "line 4: has no study name"),
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


def test_damaged_and_missing_members(tree, tmp_path):
    packed = _zip(tree, tmp_path / "films.zip")
    content = bytearray(packed.read_bytes())
    content[content.index(b"\x89PNG") + 60] ^= 255
    packed.write_bytes(content)
    file = find_studies(packed)[1].files[0]
    with pytest.raises(RadiographError, match=r"one\.png cannot be extracted from films\.zip"):
        file.content()
    with pytest.raises(RadiographError, match="cannot be extracted"):
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
