"""`load_mura` on a tree with all counts of MURA v1.1."""

import shutil
import time

import pandas as pd
import pytest
from make_counted_tree import write_counted_mura

from mura_hf import load_mura
from mura_hf.data.mura_release import OFFICIAL_COUNTS, OFFICIAL_PATIENTS
from mura_hf.models import BODY_PARTS

from ..conftest import make_once


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return (
        make_once(tmp_path_factory, "counted", lambda draft: write_counted_mura(draft, progress=False)) / "MURA-v1.1"
    )


def test_the_table_adds_up_to_the_known_totals_of_mura():
    totals = {
        split: [sum(column) for column in zip(*parts.values(), strict=True)]
        for split, parts in OFFICIAL_COUNTS.items()
    }
    assert [totals["train"][0] + totals["train"][1], *totals["train"][2:]] == [36_808, 8_280, 5_177]
    assert totals["valid"] == [1_667, 1_530, 661, 538]


def test_counts_are_correct_splits_share_no_patient_and_loading_is_fast(tree):
    start = time.perf_counter()
    datasets = load_mura(tree)
    assert time.perf_counter() - start <= 60  # 2 on an idle machine
    tables = {name: rows.remove_columns("image").to_pandas() for name, rows in datasets.items()}
    rows = pd.concat(tables, names=["split", None]).reset_index("split")
    assert rows.groupby("patient_id")["split"].nunique().max() == 1
    whole = rows[rows["split"] != "valid"]
    for split, some in (("train", whole), ("valid", rows[rows["split"] == "valid"])):
        studies = some.drop_duplicates("study_id")
        for number, part in enumerate(BODY_PARTS):
            counts = [(one["body_part"].eq(number) & one["label"].eq(label)).sum()
                      for one in (some, studies) for label in (0, 1)]  # fmt: skip
            assert tuple(counts) == OFFICIAL_COUNTS[split][part], (split, part)
        assert some["patient_id"].nunique() == OFFICIAL_PATIENTS[split]
    several = whole.groupby("patient_id")[["body_part", "label"]].nunique().gt(1)
    assert several.sum().tolist() == [1_467, 888]
    for column in ("body_part", "label"):
        shares = whole.groupby("split")[column].value_counts(normalize=True).unstack()
        assert len(shares) == 3
        assert (shares - whole[column].value_counts(normalize=True)).abs().le(0.015).all(axis=None)


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
