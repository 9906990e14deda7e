import io
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image

from mura_hf import DatasetError, load_mura
from mura_hf.data import FEATURES


@pytest.fixture
def small_tree(phantom_tree, tmp_path):
    """A copy of the tree whose files may be changed."""
    return shutil.copytree(phantom_tree, tmp_path / "MURA-v1.1")


def _study_rows(datasets):
    return {
        study: label
        for rows in datasets.values()
        for study, label in zip(rows["study_id"], rows["label"], strict=True)
    }


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


def test_no_patient_is_in_two_splits(phantom_tree):
    for seed in range(5):
        datasets = load_mura(phantom_tree, dev_fraction=0.2, calib_fraction=0.2, seed=seed)
        patients = [set(rows["patient_id"]) for rows in datasets.values()]
        assert all(patients)
        assert sum(map(len, patients)) == len(set.union(*patients))


def test_a_subset_of_parts_keeps_each_patients_split(phantom_tree):
    everything = load_mura(phantom_tree, dev_fraction=0.2)
    wrists = load_mura(phantom_tree, body_parts=["wrist"], dev_fraction=0.2)
    for split, rows in wrists.items():
        assert set(rows["body_part"]) <= {rows.features["body_part"].str2int("wrist")}
        assert set(rows["study_id"]) <= set(everything[split]["study_id"])
    with pytest.raises(ValueError, match="knee"):
        load_mura(phantom_tree, body_parts=["knee"])


@pytest.mark.parametrize("variant", ["header", "windows line ends", "nested", "shuffled", "parent"])
def test_copies_in_circulation_are_read_alike(variant, small_tree):
    expected = load_mura(small_tree, seed=1)
    root = small_tree
    for file in small_tree.glob("*.csv"):
        lines = file.read_text().splitlines()
        if variant == "header":
            lines = ["path,label" if "studies" in file.name else "path", *lines]
        if variant == "shuffled":
            lines = lines[::-1] if "studies" in file.name else lines[1::2] + lines[::2]
        file.write_bytes(("\r\n" if variant == "windows line ends" else "\n").join([*lines, ""]).encode())
    if variant == "nested":
        inner = small_tree.parent / "copy" / "MURA-v1.1"
        inner.parent.mkdir()
        root = inner.parent
        shutil.move(small_tree, inner / "MURA-v1.1")
    if variant == "parent":
        root = small_tree.parent
    found = load_mura(root, seed=1)
    for split, rows in expected.items():
        for column in ("label", "body_part", "patient_id", "study_id", "view", "boxes"):
            assert list(found[split][column]) == list(rows[column]), column


def test_labels_are_joined_not_zipped(small_tree):
    file = small_tree / "train_labeled_studies.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(sorted(lines, reverse=True)))
    for study, label in _study_rows(load_mura(small_tree)).items():
        folder = next(small_tree.glob(f"*/{study}_*"))
        assert label == folder.name.endswith("_positive")


def test_only_the_wanted_parts_need_be_there(small_tree):
    expected = load_mura(small_tree, ["wrist"])
    for folder in [*small_tree.glob("*/XR_[!W]*")]:
        shutil.rmtree(folder)
    assert list(load_mura(small_tree, ["wrist"])["train"]["study_id"]) == list(expected["train"]["study_id"])


def test_studies_that_are_not_there_make_a_partial_copy_and_are_told(small_tree, capsys):
    whole = load_mura(small_tree, seed=2)
    gone = sorted(small_tree.glob("train/XR_WRIST/*/study*"))[:2]
    for folder in gone:
        shutil.rmtree(folder)
    part = load_mura(small_tree, seed=2)
    assert "2 listed studies do not exist, such as train/XR_WRIST" in capsys.readouterr().err
    names = {f"{folder.parts[-3]}/{folder.parts[-2]}/{folder.name.split('_')[0]}" for folder in gone}
    for split, rows in whole.items():  # nobody changes places because somebody else is missing
        assert list(part[split]["study_id"]) == [study for study in rows["study_id"] if study not in names]


class TestWithoutLists:
    def test_folders_are_read_instead(self, small_tree, capsys):
        expected = load_mura(small_tree, seed=1)
        for file in small_tree.glob("*.csv"):
            file.unlink()
        for hidden in ("train/._XR_WRIST", "train/XR_WRIST/.DS_Store", "valid/XR_WRIST/._patient00001"):
            (small_tree / hidden).parent.mkdir(exist_ok=True)
            (small_tree / hidden).write_bytes(b"x")
        (small_tree / "train" / "Thumbs.db").write_bytes(b"x")
        found = load_mura(small_tree, seed=1)
        for split, rows in expected.items():
            for column in ("label", "body_part", "patient_id", "study_id", "view", "boxes"):
                assert list(found[split][column]) == list(rows[column]), column
        told = capsys.readouterr().err
        assert "has no list of images for train, so its folders were scanned" in told
        assert "1 unexpected entries are ignored, such as train/Thumbs.db" in told

    @pytest.mark.parametrize("kept", ["train_image_paths.csv", "valid_labeled_studies.csv"])
    def test_some_lists_serve_too(self, kept, small_tree):
        expected = load_mura(small_tree, seed=1)
        for file in small_tree.glob("*.csv"):
            if file.name != kept:
                file.unlink()
        found = load_mura(small_tree, seed=1)
        assert {split: list(rows["study_id"]) for split, rows in found.items()} == {
            split: list(rows["study_id"]) for split, rows in expected.items()
        }

    def test_valid_alone_is_enough_to_measure_on(self, small_tree):
        expected = load_mura(small_tree)["valid"]
        for name in ("train_image_paths.csv", "train_labeled_studies.csv"):
            (small_tree / name).unlink()
        shutil.rmtree(small_tree / "train")
        found = load_mura(small_tree)
        assert [len(found[split]) for split in ("train", "dev", "calib")] == [0, 0, 0]
        assert list(found["valid"]["study_id"]) == list(expected["study_id"])


def test_pictures_that_no_list_names_are_told(small_tree, capsys):
    study = sorted(small_tree.glob("train/*/*/*"))[0]
    shutil.copy(study / "image1.png", study / "image99.png")
    expected = load_mura(small_tree)
    assert "1 images that no list names are ignored" in capsys.readouterr().err
    assert 99 not in expected["train"]["view"]


def test_windows_separators(small_tree):
    expected = load_mura(small_tree)
    for file in small_tree.glob("*.csv"):
        file.write_text(file.read_text().replace("/", "\\"))
    assert load_mura(small_tree)["train"]["study_id"] == expected["train"]["study_id"]


def test_lists_outside_and_pictures_inside(small_tree, tmp_path):
    expected = load_mura(small_tree)
    outer = tmp_path / "copy" / "MURA-v1.1"
    (outer / "MURA-v1.1").mkdir(parents=True)
    for entry in small_tree.iterdir():
        shutil.move(entry, (outer / "MURA-v1.1" if entry.is_dir() else outer) / entry.name)
    for root in (outer, outer.parent):
        found = load_mura(root)
        assert {split: rows["study_id"] for split, rows in found.items()} == {
            split: rows["study_id"] for split, rows in expected.items()
        }
        assert found["valid"][0]["image"].mode == "L"


class TestFolds:
    def test_each_patient_is_in_dev_once(self, phantom_tree):
        folds = [load_mura(phantom_tree, calib_fraction=0.1, fold=fold, n_folds=5) for fold in range(5)]
        devs = [set(fold["dev"]["patient_id"]) for fold in folds]
        assert sum(map(len, devs)) == len(set.union(*devs))
        for fold, dev in zip(folds, devs, strict=True):
            assert dev
            assert not dev & set(fold["train"]["patient_id"])
            assert list(fold["calib"]["study_id"]) == list(folds[0]["calib"]["study_id"])
            assert set(fold["train"]["patient_id"]) | dev == set.union(*devs)

    @pytest.mark.parametrize(
        ("options", "message"), [({"fold": 5}, "0 to 4"), ({"fold": 0, "n_folds": 1}, "at least 2")]
    )
    def test_there_must_be_such_a_fold(self, options, message, phantom_tree):
        with pytest.raises(ValueError, match=message):
            load_mura(phantom_tree, **options)


class TestRefusals:
    def test_a_study_with_both_labels(self, small_tree):
        normal = sorted(small_tree.glob("train/*/*/study1_negative"))[0]
        twin = shutil.copytree(normal, normal.with_name("study1_positive")).relative_to(small_tree.parent)
        with (small_tree / "train_labeled_studies.csv").open("a") as labels:
            labels.write(f"{twin}/,1\n")
        with (small_tree / "train_image_paths.csv").open("a") as images:
            images.write(f"{twin}/image1.png\n")
        with pytest.raises(DatasetError, match="its label is unclear"):
            load_mura(small_tree)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda lines: [*lines, lines[0]], "listed twice"),
            (lambda lines: [], "lists no image"),
            (lambda lines: lines[:10], "labelled studies, such as"),
        ],
    )
    def test_a_list_that_is_not_whole(self, change, message, small_tree):
        file = small_tree / "train_image_paths.csv"
        file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))
        with pytest.raises(DatasetError, match=message):
            load_mura(small_tree)

    def test_files_that_are_not_what_they_should_be(self, small_tree):
        table = small_tree / "findings.parquet"
        whole = table.read_bytes()
        table.write_bytes(whole[:100])
        with pytest.raises(DatasetError, match="damaged"):
            load_mura(small_tree)
        pq.write_table(pq.read_table(io.BytesIO(whole)).drop(["x0"]), table)
        with pytest.raises(DatasetError, match="lacks the columns x0"):
            load_mura(small_tree)
        table.write_bytes(whole)
        file = small_tree / "valid_labeled_studies.csv"
        file.write_bytes(file.read_text().encode("utf-16"))
        with pytest.raises(DatasetError, match="not UTF-8"):
            load_mura(small_tree)

    def test_lists_without_any_picture(self, small_tree):
        for split in ("train", "valid"):
            shutil.rmtree(small_tree / split)
        with pytest.raises(DatasetError, match=r"no image of .*wrist exists, though"):
            load_mura(small_tree)

    def test_a_damaged_first_path_is_no_header(self, small_tree):
        file = small_tree / "train_image_paths.csv"
        file.write_text(file.read_text().replace(".png", ".pn", 1))
        with pytest.raises(DatasetError, match=r"row 1: .* is not a path of train"):
            load_mura(small_tree)

    def test_a_missing_file_is_named(self, small_tree):
        gone = sorted(small_tree.glob("train/**/image1.png"))[0]
        gone.unlink()
        with pytest.raises(DatasetError, match=f"files are missing, such as {gone.relative_to(small_tree)}"):
            load_mura(small_tree)

    def test_a_folder_that_is_no_mura(self, tmp_path):
        with pytest.raises(DatasetError, match=r"contains no train_labeled_studies\.csv"):
            load_mura(tmp_path)

    @pytest.mark.parametrize("how", ["folder", "listed paths", "other lists"])
    def test_the_withdrawn_version(self, how, small_tree):
        root = small_tree
        if how == "folder":
            root = small_tree.rename(small_tree.with_name("MURA-v1.0"))
        if how == "listed paths":
            for file in small_tree.glob("*.csv"):
                file.write_text(file.read_text().replace("MURA-v1.1/", "MURA-v1.0/"))
        if how == "other lists":
            for file in small_tree.glob("*.csv"):
                file.unlink()
            (small_tree / "train.csv").write_text("")
            (small_tree / "valid.csv").write_text("")
        with pytest.raises(DatasetError, match=r"is MURA v1\.0 .* contained data of patients"):
            load_mura(root)
        if how == "folder":
            with pytest.raises(DatasetError, match=r"is MURA v1\.0"):
                load_mura(root.parent)

    def test_a_study_without_label(self, small_tree):
        file = small_tree / "train_labeled_studies.csv"
        file.write_text("\n".join(file.read_text().splitlines()[1:]))
        with pytest.raises(DatasetError, match="has no label"):
            load_mura(small_tree)

    def test_a_label_against_the_folders_name(self, small_tree):
        file = small_tree / "valid_labeled_studies.csv"
        file.write_text(file.read_text().replace("_negative/,0", "_negative/,1", 1))
        with pytest.raises(DatasetError, match="contradicts its name"):
            load_mura(small_tree)

    def test_a_patient_in_train_and_valid(self, small_tree):
        study = sorted(small_tree.glob("valid/XR_*/patient*/study*"))[0]
        old = study.parent.name
        twin = study.parents[1] / "patient00001"
        shutil.move(study.parent, twin)
        for file in small_tree.glob("valid_*.csv"):
            file.write_text(
                file.read_text().replace(f"{study.parents[1].name}/{old}/", f"{study.parents[1].name}/patient00001/")
            )
        with pytest.raises(DatasetError, match="in train and in valid"):
            load_mura(small_tree)


def test_one_body_part_is_a_list_too(phantom_tree):
    with pytest.raises(ValueError, match=r"a list such as \['wrist'\]"):
        load_mura(phantom_tree, "wrist")


def test_the_truth_is_found_from_inside_the_tree(phantom_tree, monkeypatch):
    expected = load_mura(phantom_tree)["train"]
    monkeypatch.chdir(phantom_tree)
    found = load_mura(".")["train"]
    for name in ("boxes", "decoys", "finding", "twin"):
        assert found[name] == expected[name]


def test_the_truth_of_another_tree_is_refused(phantom_tree, tmp_path):
    tree = shutil.copytree(phantom_tree, tmp_path / "tree")
    table = pq.read_table(tree / "findings.parquet")
    paths = pa.array([path.replace("patient", "person") for path in table["path"].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("path"), "path", paths), tree / "findings.parquet")
    with pytest.raises(DatasetError, match="so it may not be synthetic"):
        load_mura(tree)
