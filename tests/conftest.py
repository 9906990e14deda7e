"""Shared phantoms and checkpoints, made once a run. No network."""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ["MURA_HOME"] = tempfile.mkdtemp(prefix="mura_hf_tests_")  # tests leave nothing in the user's cache folder

from pathlib import Path

import pytest
import torch

from mura_hf import MuraConfig, MuraForImageClassification, MuraImageProcessor
from mura_hf.phantoms import write_phantom_mura

SIDE = 64


@pytest.fixture(scope="session")
def phantom_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """56 small synthetic studies in MURA's layout."""
    return write_phantom_mura(tmp_path_factory.mktemp("phantoms"), 56, seed=3, size=128, workers=2, progress=False)


@pytest.fixture(scope="session")
def phantom_files(phantom_tree: Path) -> list[str]:
    """The views of one study of at least two."""
    for study in sorted(phantom_tree.glob("train/*/*/*_positive")):
        files = sorted(map(str, study.glob("*.png")))
        if len(files) >= 2:
            return files
    raise AssertionError("the tree has no abnormal study of two views")


def make_checkpoint(folder: Path, **fields: object) -> Path:
    """Saves an untrained checkpoint."""
    torch.manual_seed(0)
    config = MuraConfig(**{"backbone": "resnet10t", "image_size": SIDE, "body_part_head": True, **fields})
    MuraForImageClassification(config).save_pretrained(folder)
    MuraImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint with a convolutional backbone and a body-part head."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "untrained")
