"""`load_mura` on a tree with all counts of MURA v1.1."""

import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from make_counted_tree import main, write_counted_mura

from mura_hf import DatasetError, load_mura
from mura_hf.data.mura_release import OFFICIAL_COUNTS, OFFICIAL_PATIENTS
from mura_hf.models import BODY_PARTS

CUT_FROM_TRAIN = ("train", "dev", "calib")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_counted_mura(tmp_path_factory.mktemp("counted"), progress=False)


@pytest.fixture(scope="module")
def loaded(tree):
    """The splits, and the seconds that loading took."""
    start = time.perf_counter()
    datasets = load_mura(tree)
    return datasets, time.perf_counter() - start


def _rows(datasets, splits):
    columns = ("body_part", "label", "study_id", "patient_id")
    return [row for split in splits for row in zip(*(datasets[split][name] for name in columns), strict=True)]


def test_the_table_adds_up_to_the_known_totals_of_mura():
    totals = {
        split: [sum(column) for column in zip(*parts.values(), strict=True)]
        for split, parts in OFFICIAL_COUNTS.items()
    }
    assert [totals["train"][0] + totals["train"][1], *totals["train"][2:]] == [36_808, 8_280, 5_177]
    assert totals["valid"] == [1_667, 1_530, 661, 538]


def test_every_count_is_correct_and_loading_is_fast(loaded):
    datasets, seconds = loaded
    assert seconds <= 20  # 2 on an idle machine
    for split, chosen in (("train", CUT_FROM_TRAIN), ("valid", ("valid",))):
        rows = _rows(datasets, chosen)
        images = Counter((BODY_PARTS[part], label) for part, label, *_ in rows)
        studies = Counter((BODY_PARTS[part], label) for part, label, _ in {row[:3] for row in rows})
        for part, count in OFFICIAL_COUNTS[split].items():
            assert (*(images[part, label] for label in (0, 1)), *(studies[part, label] for label in (0, 1))) == count
        assert len({row[3] for row in rows}) == OFFICIAL_PATIENTS[split]
    parts, labels = {}, {}
    for part, label, _, patient in _rows(datasets, CUT_FROM_TRAIN):
        parts.setdefault(patient, set()).add(part)
        labels.setdefault(patient, set()).add(label)
    assert sum(len(several) > 1 for several in parts.values()) == 1_467
    assert sum(len(several) > 1 for several in labels.values()) == 888


def test_splits_share_no_patient_and_are_alike(loaded):
    datasets, _ = loaded
    patients = [set(datasets[split]["patient_id"]) for split in datasets]
    assert sum(map(len, patients)) == len(set.union(*patients))
    whole = _rows(datasets, CUT_FROM_TRAIN)
    for split in CUT_FROM_TRAIN:
        rows = _rows(datasets, [split])
        for column in (0, 1):
            for value in {row[column] for row in whole}:
                shares = [sum(row[column] == value for row in some) / len(some) for some in (rows, whole)]
                assert shares[0] == pytest.approx(shares[1], abs=0.015)


def test_a_partial_copy_is_compared_with_the_official_counts(tree, tmp_path, capsys):
    wrist = tmp_path / "MURA-v1.1" / "valid" / "XR_WRIST"
    shutil.copytree(tree / "valid" / "XR_WRIST", wrist)
    gone = sorted(wrist.glob("*/*"))[0]
    left_out = len(list(gone.iterdir()))
    shutil.rmtree(gone)
    rows = load_mura(tmp_path, ["wrist"])["valid"]
    assert len(rows) == 659 - left_out
    table = capsys.readouterr().err
    assert f"valid wrist {659 - left_out:12} of      659       236 of      237   differs" in table
    assert "train wrist            0 of     9752" in table
    assert "elbow" not in table


def test_the_counts_of_the_withdrawn_version_are_refused(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:  # the folders and lists are enough
        patch.setattr(Path, "write_bytes", lambda file, content: None)
        main(["--output_dir", str(tmp_path), "--withdrawn"])
    tree = tmp_path / "MURA-v1.1"
    assert str(tree) in capsys.readouterr().out
    with pytest.raises(DatasetError, match=r"is MURA v1\.0 .*40,895 images"):
        load_mura(tree)
    for name in ("train_image_paths.csv", "train_labeled_studies.csv"):
        (tree / name).unlink()
    (tree / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"is MURA v1\.0 .*160 elbow studies in valid"):
        load_mura(tree)
    with pytest.raises(SystemExit, match="exists already"):
        main(["--output_dir", str(tmp_path)])
