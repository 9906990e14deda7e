import datasets as hf_datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Image, Value, concatenate_datasets

from mura_hf import DatasetError, MuraImageProcessor, load_mura
from mura_hf.data import FEATURES, SOURCES, ViewDataset, load_data, load_hub


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(hf_datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def rows(phantom_tree):
    loaded = load_mura(phantom_tree)
    return concatenate_datasets([loaded["train"], loaded["dev"]]).select_columns(list(FEATURES)), loaded["valid"]


def _write(folder, **splits):
    folder.mkdir(parents=True)
    for split, chosen in splits.items():
        chosen.to_parquet(folder / f"{split}-00000-of-00001.parquet")  # pictures and all
    return folder


def _studies(rows):
    return set(rows["study_id"])


def test_a_folder_of_parquet_files_is_what_was_written(rows, tmp_path, phantom_tree, capsys):
    train, valid = rows
    root = _write(tmp_path / "films", train=train, validation=valid.select_columns(list(FEATURES)))
    loaded, source = load_data(root, dev_fraction=0.2, calib_fraction=0.2, seed=1)
    assert source is SOURCES["hub"]
    assert "the split validation serves as valid" in capsys.readouterr().err
    assert list(loaded) == ["train", "dev", "calib", "valid"]
    assert all(split.features == FEATURES for split in loaded.values())
    assert _studies(loaded["valid"]) == _studies(valid)
    cut = [loaded[name] for name in ("train", "dev", "calib")]
    assert set().union(*map(_studies, cut)) == _studies(train)
    assert sum(len(set(one["patient_id"])) for one in cut) == len(set(train["patient_id"]))
    # The same pixels as from the files, beside the same facts.
    processor = MuraImageProcessor(size={"height": 32, "width": 32})
    expected = {(row["study_id"], row["view"]): row for row in valid.cast_column("image", Image(decode=False))}
    for row in loaded["valid"].cast_column("image", Image(decode=False)).select(range(4)):
        twin = expected[row["study_id"], row["view"]]
        assert {key: row[key] for key in row if key != "image"} == {key: twin[key] for key in row if key != "image"}
    one, other = ViewDataset(loaded["valid"], processor), ViewDataset(valid, processor)
    places = {(study, view): n for n, (study, view) in enumerate(zip(valid["study_id"], valid["view"], strict=True))}
    row = loaded["valid"][0]
    assert (one[0]["pixel_values"] == other[places[row["study_id"], row["view"]]]["pixel_values"]).all()


def test_what_is_missing_is_cut_by_patient(rows, tmp_path, capsys):
    train, _ = rows
    plain = train.remove_columns(["body_part", "view"]).cast_column("label", ClassLabel(names=["normal", "abnormal"]))
    labels = [["normal", "abnormal"][one] for one in plain["label"]]
    plain = plain.remove_columns("label").add_column("label", labels)
    DatasetDict({"train": plain}).save_to_disk(tmp_path / "saved")
    loaded = load_hub(tmp_path / "saved", valid_fraction=0.25)
    assert "25% of the patients become valid" in capsys.readouterr().err
    patients = {name: set(split["patient_id"]) for name, split in loaded.items()}
    assert all(patients.values())
    assert sum(map(len, patients.values())) == len(set(train["patient_id"]))
    assert set(loaded["train"]["body_part"]) == {None}
    study = loaded["train"]["study_id"][0]
    views = [
        view for one, view in zip(loaded["train"]["study_id"], loaded["train"]["view"], strict=True) if one == study
    ]
    assert views == list(range(1, len(views) + 1))


def test_validation_chooses_and_test_is_held_out(rows, tmp_path):
    train, valid = rows
    patients = sorted(set(train["patient_id"]))
    for_dev = set(patients[:6])
    dev = train.filter(lambda row: row["patient_id"] in for_dev)
    rest = train.filter(lambda row: row["patient_id"] not in for_dev)
    root = _write(tmp_path / "films", train=rest, validation=dev, test=valid.select_columns(list(FEATURES)))
    loaded = load_hub(root, body_parts=["wrist", "hand", "elbow"])
    parts = loaded["train"].features["body_part"]
    for name, original in (("dev", dev), ("valid", valid)):
        kept = {row["study_id"] for row in original if parts.int2str(row["body_part"]) in ("wrist", "hand", "elbow")}
        assert _studies(loaded[name]) == kept
    with pytest.raises(DatasetError, match="cannot be divided into folds"):
        load_hub(root, fold=1)


def test_studies_of_the_same_name_are_told_apart(rows, tmp_path, capsys):
    train, _ = rows
    numbers = [study.rsplit("/", 1)[1] for study in train["study_id"]]
    kinds = [f"{study.split('/')[0]} {number}" for study, number in zip(train["study_id"], numbers, strict=True)]
    renamed = train.remove_columns("study_id").add_column("study_id", kinds)
    loaded = load_hub(_write(tmp_path / "films", train=renamed))
    assert "a study is identified by both" in capsys.readouterr().err
    assert len(set().union(*map(_studies, loaded.values()))) == len(_studies(train))


def _changed(rows, column, value):
    values = list(rows[column])
    values[2] = value
    return rows.remove_columns(column).add_column(column, values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.remove_columns(["patient_id", "label"]), "lacks the columns label, patient_id"),
        (lambda rows: rows.remove_columns("image").add_column("image", ["a.png"] * len(rows)), "cast_column"),
        (lambda rows: _changed(rows, "label", 3), "row 2: label is 3"),
        (lambda rows: _changed(rows, "patient_id", None), "row 2: patient_id is empty"),
        (lambda rows: _changed(rows.cast_column("body_part", Value("string")), "body_part", "knee"), "body_part is"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_named(change, message, rows, tmp_path):
    train, _ = rows
    with pytest.raises(DatasetError, match=message):
        load_hub(_write(tmp_path / "films", train=change(train)))


def test_a_patient_in_two_splits_is_refused(rows, tmp_path):
    train, _ = rows
    with pytest.raises(DatasetError, match=r"is in train and in valid"):
        load_hub(_write(tmp_path / "films", train=train, test=train.select(range(5))))


def test_what_is_nowhere_is_said(tmp_path):
    with pytest.raises(DatasetError, match="nobody/nothing is neither a folder nor an available dataset"):
        load_data("nobody/nothing")
    DatasetDict({"test": Dataset.from_dict({"label": [0]})}).save_to_disk(tmp_path / "odd")
    with pytest.raises(DatasetError, match="no split train"):
        load_data(tmp_path / "odd")
