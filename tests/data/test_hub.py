import datasets as hf_datasets
import pytest
from datasets import Dataset, DatasetDict, Image, Value, concatenate_datasets

from mura_hf import DatasetError, MuraImageProcessor, load_mura
from mura_hf.data import FEATURES, SOURCES, ViewDataset, load_data, load_hub

from .conftest import check_patients


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(hf_datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def train_and_valid(phantom_tree):
    loaded = load_mura(phantom_tree)
    train = concatenate_datasets([loaded["train"], loaded["dev"]])
    return [rows.select_columns(list(FEATURES)) for rows in (train, loaded["valid"])]


@pytest.fixture(scope="module")
def train(train_and_valid):
    return train_and_valid[0]


def _write(folder, **splits):
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")  # including the images
    return folder


def _studies(rows):
    return set(rows["study_id"])


def _replace(rows, column, values):
    return rows.remove_columns(column).add_column(column, values)


def test_a_folder_of_parquet_files(train_and_valid, tmp_path, capsys):
    train, valid = train_and_valid
    root = _write(tmp_path / "films", train=train, validation=valid)
    loaded, source = load_data(root, dev_fraction=0.2, calib_fraction=0.2, seed=1)
    assert source is SOURCES["hub"]
    assert "the split validation serves as valid" in capsys.readouterr().err
    assert list(loaded) == ["train", "dev", "calib", "valid"]
    assert all(split.features == FEATURES for split in loaded.values())
    assert _studies(loaded["valid"]) == _studies(valid)
    assert set().union(*(_studies(loaded[name]) for name in ("train", "dev", "calib"))) == _studies(train)
    check_patients(loaded)
    # The pixels are those of the files, beside the same facts.
    processor = MuraImageProcessor(size={"height": 32, "width": 32})
    views, originals = ViewDataset(loaded["valid"], processor), ViewDataset(valid, processor)
    places = {key: n for n, key in enumerate(zip(valid["study_id"], valid["view"], strict=True))}
    for index, row in enumerate(loaded["valid"].cast_column("image", Image(decode=False)).select(range(4))):
        place = places[row["study_id"], row["view"]]
        original = originals.rows[place]
        assert {**row, "image": None} == {**original, "image": None}
        assert (views[index]["pixel_values"] == originals[place]["pixel_values"]).all()


def test_missing_splits_are_taken_from_train_by_patient(train, tmp_path, capsys):
    words = [["normal", "abnormal"][label] for label in train["label"]]
    plain = _replace(train.remove_columns(["body_part", "view"]), "label", words)
    DatasetDict({"train": plain}).save_to_disk(tmp_path / "saved")
    loaded = load_hub(tmp_path / "saved", valid_fraction=0.25)
    assert "25% of the patients become valid" in capsys.readouterr().err
    assert check_patients(loaded) == len(set(train["patient_id"]))
    assert set(loaded["train"]["body_part"]) == {None}
    study = loaded["train"]["study_id"][0]
    pairs = zip(loaded["train"]["study_id"], loaded["train"]["view"], strict=True)
    views = [view for one, view in pairs if one == study]
    assert views == list(range(1, len(views) + 1))


def test_validation_serves_as_dev_if_there_is_test(train_and_valid, tmp_path):
    train, valid = train_and_valid
    for_dev = set(sorted(set(train["patient_id"]))[:6])
    dev, rest = (
        train.select([n for n, patient in enumerate(train["patient_id"]) if (patient in for_dev) == chosen])
        for chosen in (True, False)
    )
    root = _write(tmp_path / "films", train=rest, validation=dev, test=valid)
    parts = ["wrist", "hand", "elbow"]
    loaded = load_hub(root, body_parts=parts)
    name_of = loaded["train"].features["body_part"].int2str
    for name, original in (("dev", dev), ("valid", valid)):
        assert _studies(loaded[name]) == {row["study_id"] for row in original if name_of(row["body_part"]) in parts}
    with pytest.raises(DatasetError, match="cannot be divided into folds"):
        load_hub(root, fold=1)


def test_studies_of_the_same_name_are_separated_by_patient(train, tmp_path, capsys):
    names = ["{0} {2}".format(*study.split("/")) for study in train["study_id"]]
    loaded = load_hub(_write(tmp_path / "films", train=_replace(train, "study_id", names)))
    assert "a study is identified by both" in capsys.readouterr().err
    assert len(set().union(*map(_studies, loaded.values()))) == len(_studies(train))


def _with_value(rows, column, value):
    return _replace(rows, column, [*rows[column][:2], value, *rows[column][3:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.remove_columns(["patient_id", "label"]), "lacks the columns label, patient_id"),
        (lambda rows: _replace(rows, "image", ["a.png"] * len(rows)), "cast_column"),
        (lambda rows: _with_value(rows, "label", 3), "row 2: label is 3"),
        (lambda rows: _with_value(rows, "patient_id", None), "row 2: patient_id is empty"),
        (
            lambda rows: _replace(rows, "patient_id", [1.0, 1.0, float("nan"), *[2.0] * (len(rows) - 3)]),
            "row 2: patient_id is empty",
        ),
        (
            lambda rows: _with_value(rows.cast_column("body_part", Value("string")), "body_part", "knee"),
            "body_part is",
        ),
    ],
)
def test_invalid_columns_and_values(change, message, train, tmp_path):
    with pytest.raises(DatasetError, match=message):
        load_hub(_write(tmp_path / "films", train=change(train)))


def test_other_refusals(train, tmp_path):
    with pytest.raises(DatasetError, match=r"is in train and in valid"):
        load_hub(_write(tmp_path / "films", train=train, test=train.select(range(5))))
    with pytest.raises(DatasetError, match="nobody/nothing is neither a folder nor an available dataset"):
        load_data("nobody/nothing")
    DatasetDict({"test": Dataset.from_dict({"label": [0]})}).save_to_disk(tmp_path / "odd")
    with pytest.raises(DatasetError, match="no split train"):
        load_data(tmp_path / "odd")
