"""A small evaluation that several tests share."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

from mura_hf import load_mura
from mura_hf.evaluation import evaluate_checkpoint, insertion_deletion, masking, ood_detection, randomization, saliency

CALIBRATED = {"temperature": 0.3, "study_slope": 1.7, "study_intercept": -0.4, "operating_points": {"youden": 0.42}}


@pytest.fixture(scope="session", autouse=True)
def _fast_evaluation():
    """Fewer views, seeds and steps in every evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        for module, sizes in {
            randomization: {"N_VIEWS": 3, "N_SEEDS": 1, "STEPS": 2},
            insertion_deletion: {"N_VIEWS": 3, "STEPS": 2},
            saliency: {"N_PHANTOMS": 7},
            ood_detection: {"N_IMAGES": 2},
            masking: {"N_STUDIES": 5},
        }.items():
            for name, value in sizes.items():
                patch.setattr(module, name, value)
        yield


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
def folder(checkpoint, tmp_path):
    """A copy of the untrained checkpoint."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture(scope="session")
def evaluated(checkpoint, datasets, tmp_path_factory):
    """A checkpoint with a calibration, evaluated on valid, and its cache."""
    base = tmp_path_factory.mktemp("evaluated")
    folder = shutil.copytree(checkpoint, base / "checkpoint")
    change_json(folder / "config.json", **CALIBRATED)
    evaluate_checkpoint(
        folder, datasets["valid"], "valid", train=datasets["train"], prevalence=0.2, cpu=True, cache_dir=base / "cache"
    )
    return folder, base / "cache"
