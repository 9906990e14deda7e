"""A small evaluation that several tests share."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

from mura_hf import load_mura
from mura_hf.data import split_digest
from mura_hf.evaluation import (
    evaluate_checkpoint,
    fit_ood_detector,
    index_checkpoint,
)
from mura_hf.metrics import MIN_SIZES, intervals

CALIBRATED = {"temperature": 0.3, "study_slope": 1.7, "study_intercept": -0.4, "operating_points": {"youden": 0.42}}
CALIBRATED |= {"default_operating_point": "youden", "bands": {"low": 0.3, "suspected": 0.6}}


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch):
    """The few patients of these tests are enough for an interval."""
    monkeypatch.setattr(intervals, "MIN_CLUSTERS", 3)
    monkeypatch.setattr(intervals, "MIN_STUDIES", 2)


@pytest.fixture(scope="session")
def datasets(phantom_tree: Path) -> DatasetDict:
    return load_mura(phantom_tree, dev_fraction=0.1, calib_fraction=0.4)


@pytest.fixture(scope="session")
def rows(datasets):
    return datasets["valid"]


@pytest.fixture(scope="session")
def train_rows(phantom_tree):
    """All rows of train, without dev and calib."""
    return load_mura(phantom_tree, dev_fraction=0.0, calib_fraction=0.0)["train"]


@pytest.fixture
def few_suffice(monkeypatch):
    """The few phantoms of these tests are enough for calibration and verdicts."""
    for what in MIN_SIZES:
        monkeypatch.setitem(MIN_SIZES, what, (3, 2))


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the untrained checkpoint."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture(scope="session")
def evaluated(checkpoint, phantom_tree, datasets, tmp_path_factory):
    """A calibrated checkpoint that claims to be trained on the phantoms, with detector and index, and its cache.

    It was evaluated on valid.
    """
    base = tmp_path_factory.mktemp("evaluated")
    folder = shutil.copytree(checkpoint, base / "checkpoint")
    change_json(folder / "config.json", **CALIBRATED)
    digest = split_digest((name, study) for name, rows in datasets.items() for study in rows["study_id"])
    cut = {"dev_fraction": 0.1, "calib_fraction": 0.4, "seed": 0, "stratified": True}
    record = {"recipe": {"name": "x"}, "data": {"key": "phantoms", "split_digest": digest, "cut": cut}}
    (folder / "training.json").write_text(json.dumps(record))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mura_hf.retrieval.ood_detection.MIN_CALIB_VIEWS", 10)
        patch.setattr(intervals, "MIN_CLUSTERS", 3)
        patch.setattr(intervals, "MIN_STUDIES", 2)
        fit_ood_detector(folder, datasets["train"], datasets["calib"], cpu=True)
        index_checkpoint(folder, phantom_tree, thumbnail_side=24, cpu=True, progress=False)
        options = {"prevalence": 0.2, "cpu": True, "cache_dir": base / "cache"}
        evaluate_checkpoint(folder, datasets["valid"], "valid", train=datasets["train"], **options)
    return folder, base / "cache"
