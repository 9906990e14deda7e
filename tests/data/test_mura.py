import io
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image

from mura_hf import DatasetError, load_mura
from mura_hf.data import FEATURES

from .conftest import check_patients

COLUMNS = ("label", "body_part", "patient_id", "study_id", "view", "boxes", "decoys", "finding", "twin")


@pytest.fixture
def small_tree(phantom_tree, tmp_path):
    """A copy of the tree that may be changed."""
    return shutil.copytree(phantom_tree, tmp_path / "MURA-v1.1")


@pytest.fixture(scope="module")
def expected(phantom_tree):
    return load_mura(phantom_tree, seed=1)


def _check_equal(found, expected, columns=COLUMNS):
    for split, rows in expected.items():
        for column in columns:
            assert list(found[split][column]) == list(rows[column]), column


def _edit(file, change):
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))


def test_rows_are_those_of_the_files(phantom_tree):
    datasets = load_mura(phantom_tree, dev_fraction=0.2, calib_fraction=0.2)
    assert list(datasets) == ["train", "dev", "calib", "valid"]
    for split, rows in datasets.items():
        assert set(FEATURES) <= set(rows.column_names)
        assert rows.features["label"].names == ["normal", "abnormal"]
        for row in rows.cast_column("image", Image(decode=False)):
            path = row["image"]["path"]
            part, patient, study = row["study_id"].split("/")
            assert f"/{'valid' if split == 'valid' else 'train'}/{part}/{patient}/{study}_" in path
            assert path.endswith(f"image{row['view']}.png")
            assert row["patient_id"] == patient
            assert rows.features["body_part"].int2str(row["body_part"]) == part.removeprefix("XR_").lower()
            assert row["label"] == ("_positive/" in path)
    listed = (phantom_tree / "train_image_paths.csv").read_text().splitlines()
    assert sum(len(datasets[split]) for split in ("train", "dev", "calib")) == len(listed)
    assert datasets["valid"][0]["image"].mode == "L"


class TestSplits:
    @pytest.mark.parametrize("seed", range(3))
    def test_no_patient_is_in_two_splits(self, seed, phantom_tree):
        check_patients(load_mura(phantom_tree, dev_fraction=0.2, calib_fraction=0.2, seed=seed))

    def test_a_subset_of_parts_keeps_the_split_of_each_patient(self, phantom_tree):
        everything = load_mura(phantom_tree, dev_fraction=0.2)
        for split, rows in load_mura(phantom_tree, body_parts=["XR_WRIST"], dev_fraction=0.2).items():
            assert set(rows["body_part"]) <= {rows.features["body_part"].str2int("wrist")}
            assert set(rows["study_id"]) <= set(everything[split]["study_id"])

    def test_each_patient_is_in_dev_of_one_fold(self, phantom_tree):
        folds = [load_mura(phantom_tree, calib_fraction=0.1, fold=fold, n_folds=4) for fold in range(4)]
        devs = [set(fold["dev"]["patient_id"]) for fold in folds]
        assert sum(map(len, devs)) == len(set.union(*devs))
        for fold, dev in zip(folds, devs, strict=True):
            assert dev
            assert not dev & set(fold["train"]["patient_id"])
            assert list(fold["calib"]["study_id"]) == list(folds[0]["calib"]["study_id"])
            assert set(fold["train"]["patient_id"]) | dev == set.union(*devs)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"fold": 5}, "0 to 4"),
            ({"fold": 0, "n_folds": 1}, "at least 2"),
            ({"body_parts": ["knee"]}, "knee"),
            ({"body_parts": "wrist"}, r"a list such as \['wrist'\]"),
        ],
    )
    def test_invalid_options(self, options, message, phantom_tree):
        with pytest.raises(ValueError, match=message):
            load_mura(phantom_tree, **options)


class TestCopiesInCirculation:
    @pytest.mark.parametrize(
        "variant", ["header", "line ends", "separators", "shuffled", "nested", "parent", "lists outside"]
    )
    def test_are_read_alike(self, variant, small_tree, expected):
        root = small_tree
        for file in small_tree.glob("*.csv"):
            lines = file.read_text().splitlines()
            if variant == "header":
                lines = ["path,label" if "studies" in file.name else "path", *lines]
            if variant == "shuffled":
                lines = lines[::-1] if "studies" in file.name else lines[1::2] + lines[::2]
            if variant == "separators":
                lines = [line.replace("/", "\\") for line in lines]
            file.write_bytes(("\r\n" if variant == "line ends" else "\n").join([*lines, ""]).encode())
        inner = small_tree.parent / "copy" / "MURA-v1.1" / "MURA-v1.1"
        if variant == "nested":
            inner.parent.mkdir(parents=True)
            shutil.move(small_tree, inner)
            root = inner.parents[1]
        if variant == "lists outside":
            inner.mkdir(parents=True)
            for entry in small_tree.iterdir():
                shutil.move(entry, (inner if entry.is_dir() else inner.parent) / entry.name)
            root = inner.parent
        if variant == "parent":
            root = small_tree.parent
        found = load_mura(root, seed=1)
        _check_equal(found, expected)
        assert found["valid"][0]["image"].mode == "L"

    def test_without_lists_folders_are_scanned(self, small_tree, expected, capsys):
        for file in small_tree.glob("*.csv"):
            file.unlink()
        for hidden in ("train/._XR_WRIST", "train/XR_WRIST/.DS_Store", "valid/XR_WRIST/._patient00001"):
            (small_tree / hidden).parent.mkdir(exist_ok=True)
            (small_tree / hidden).write_bytes(b"x")
        (small_tree / "train" / "Thumbs.db").write_bytes(b"x")
        _check_equal(load_mura(small_tree, seed=1), expected)
        printed = capsys.readouterr().err
        assert "has no list of images for train, so its folders were scanned" in printed
        assert "unexpected entries are ignored: 1, such as train/Thumbs.db" in printed

    @pytest.mark.parametrize("kept", ["train_image_paths.csv", "valid_labeled_studies.csv"])
    def test_some_lists_suffice(self, kept, small_tree, expected):
        for file in small_tree.glob("*.csv"):
            if file.name != kept:
                file.unlink()
        _check_equal(load_mura(small_tree, seed=1), expected, ["study_id"])

    def test_valid_alone_can_be_evaluated(self, small_tree, expected):
        for name in ("train_image_paths.csv", "train_labeled_studies.csv"):
            (small_tree / name).unlink()
        shutil.rmtree(small_tree / "train")
        found = load_mura(small_tree)
        assert [len(found[split]) for split in ("train", "dev", "calib")] == [0, 0, 0]
        assert list(found["valid"]["study_id"]) == list(expected["valid"]["study_id"])

    def test_missing_studies_are_reported_and_splits_stay(self, small_tree, expected, capsys):
        gone = sorted(small_tree.glob("train/XR_WRIST/*/study*"))[:2]
        for folder in gone:
            shutil.rmtree(folder)
        part = load_mura(small_tree, seed=1)
        assert "listed studies that do not exist: 2, such as train/XR_WRIST" in capsys.readouterr().err
        names = {f"{folder.parts[-3]}/{folder.parts[-2]}/{folder.name.split('_')[0]}" for folder in gone}
        for split, rows in expected.items():
            assert list(part[split]["study_id"]) == [study for study in rows["study_id"] if study not in names]

    def test_other_parts_may_be_missing(self, small_tree):
        expected = load_mura(small_tree, ["wrist"])
        for folder in small_tree.glob("*/XR_[!W]*"):
            shutil.rmtree(folder)
        _check_equal(load_mura(small_tree, ["wrist"]), expected, ["study_id"])

    def test_unlisted_images_are_reported(self, small_tree, capsys):
        study = sorted(small_tree.glob("train/*/*/*"))[0]
        shutil.copy(study / "image1.png", study / "image99.png")
        assert 99 not in load_mura(small_tree)["train"]["view"]
        assert "images that no list names are ignored: 1" in capsys.readouterr().err


class TestRefusals:
    @pytest.mark.parametrize("sign", ["folder", "listed paths", "other lists"])
    def test_the_withdrawn_version(self, sign, small_tree):
        root = small_tree
        if sign == "folder":
            root = small_tree.rename(small_tree.with_name("MURA-v1.0"))
        for file in sorted(small_tree.glob("*.csv")):
            if sign == "listed paths":
                file.write_text(file.read_text().replace("MURA-v1.1/", "MURA-v1.0/"))
            if sign == "other lists":
                file.unlink()
        if sign == "other lists":
            for name in ("train.csv", "valid.csv"):
                (small_tree / name).write_text("")
        for place in [root, root.parent] if sign == "folder" else [root]:
            with pytest.raises(DatasetError, match=r"is MURA v1\.0 .* contained data of patients"):
                load_mura(place)

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("train_image_paths.csv", lambda lines: [*lines, lines[0]], "listed twice"),
            ("train_image_paths.csv", lambda lines: [], "lists no image"),
            ("train_image_paths.csv", lambda lines: lines[:10], "labelled studies, such as"),
            (
                "train_image_paths.csv",
                lambda lines: [lines[0].replace(".png", ".pn"), *lines[1:]],
                r"row 1: .* is not a path of train",
            ),
            ("train_labeled_studies.csv", lambda lines: lines[1:], "has no label"),
            (
                "valid_labeled_studies.csv",
                lambda lines: "\n".join(lines).replace("_negative/,0", "_negative/,1", 1).splitlines(),
                "contradicts its name",
            ),
        ],
    )
    def test_contradictory_lists(self, name, change, message, small_tree):
        _edit(small_tree / name, change)
        with pytest.raises(DatasetError, match=message):
            load_mura(small_tree)

    def test_a_study_with_both_labels(self, small_tree):
        normal = sorted(small_tree.glob("train/*/*/study1_negative"))[0]
        copy = shutil.copytree(normal, normal.with_name("study1_positive")).relative_to(small_tree.parent)
        _edit(small_tree / "train_labeled_studies.csv", lambda lines: [*lines, f"{copy}/,1"])
        _edit(small_tree / "train_image_paths.csv", lambda lines: [*lines, f"{copy}/image1.png"])
        with pytest.raises(DatasetError, match="its label is unclear"):
            load_mura(small_tree)

    def test_a_patient_in_train_and_valid(self, small_tree):
        study = sorted(small_tree.glob("valid/XR_*/patient*/study*"))[0]
        part, old = study.parts[-3:-1]
        shutil.move(study.parent, study.parents[1] / "patient00001")
        for file in small_tree.glob("valid_*.csv"):
            file.write_text(file.read_text().replace(f"{part}/{old}/", f"{part}/patient00001/"))
        with pytest.raises(DatasetError, match="in train and in valid"):
            load_mura(small_tree)

    def test_missing_files_and_folders(self, small_tree, tmp_path):
        gone = sorted(small_tree.glob("train/**/image1.png"))[0]
        gone.unlink()
        with pytest.raises(DatasetError, match=rf"files are missing \(1\): {gone.relative_to(small_tree)}"):
            load_mura(small_tree)
        for split in ("train", "valid"):
            shutil.rmtree(small_tree / split)
        with pytest.raises(DatasetError, match=r"no image of .*wrist exists, though"):
            load_mura(small_tree)
        with pytest.raises(DatasetError, match=r"no train_labeled_studies\.csv"):
            load_mura(small_tree.parent / "elsewhere")

    def test_a_list_in_another_encoding(self, small_tree, expected):
        file = small_tree / "valid_labeled_studies.csv"
        text = file.read_text()
        file.write_bytes(text.replace(",", ";").encode("utf-16"))
        _check_equal(load_mura(small_tree, seed=1), expected, ["study_id"])
        file.write_bytes(text.replace("MURA", "MÜRA").encode("latin-1"))
        with pytest.raises(DatasetError, match="neither UTF-8 nor UTF-16 text"):
            load_mura(small_tree)

    def test_damaged_annotations_and_those_of_other_images(self, small_tree):
        file = small_tree / "findings.parquet"
        content = file.read_bytes()
        file.write_bytes(content[:100])
        with pytest.raises(DatasetError, match="damaged"):
            load_mura(small_tree)
        table = pq.read_table(io.BytesIO(content))
        pq.write_table(table.drop(["x0"]), file)
        with pytest.raises(DatasetError, match="lacks the columns x0"):
            load_mura(small_tree)
        paths = pa.array([path.replace("patient", "person") for path in table["path"].to_pylist()])
        pq.write_table(table.set_column(table.column_names.index("path"), "path", paths), file)
        with pytest.raises(DatasetError, match="so it may not be synthetic"):
            load_mura(small_tree)


def test_a_relative_path(phantom_tree, expected, monkeypatch):
    monkeypatch.chdir(phantom_tree)
    _check_equal(load_mura(".", seed=1), expected)
