"""A tiny config and what trains it."""

import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from mura_hf import load_mura
from mura_hf.training import TrainingConfig, train

TINY = TrainingConfig().replace(
    backbone="resnet10t", backbone_kwargs={"channels": [8, 16, 24, 32]}, pretrained=False, image_size=64,
    body_part_head=False, epochs=2, batch_size=16, learning_rate=1e-3, dev_fraction=0.25, calib_fraction=0.2,
)  # fmt: skip
CONVNEXT = {"backbone": "convnext_atto", "backbone_kwargs": {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}}
"""A backbone without batch norm and dropout: nothing depends on how a batch is divided."""


@pytest.fixture(autouse=True)
def _fresh_state():
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def phantom_splits(phantom_tree):
    return load_mura(phantom_tree, dev_fraction=0.25, calib_fraction=0.2)


def train_tiny(datasets, folder: Path, config=TINY, *, cache_dir=None, **changes):
    """Trains on the CPU; returns the folder of the checkpoint and the lines of metrics.jsonl."""
    AcceleratorState._reset_state(reset_partial_state=True)
    source = {"data_description": {"name": "phantoms"}, "trained_on_phantoms": True}
    made = train(datasets, config.replace(**changes), folder, cpu=True, cache_dir=cache_dir, **source)
    lines = folder / "metrics.jsonl"
    return made, [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


def read_record(folder: Path):
    """Content of `training.json` of a checkpoint."""
    return json.loads((folder / "training.json").read_text())
