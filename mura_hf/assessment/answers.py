"""What trained runs say of the studies of a split, kept beside them."""

from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset
from scipy.special import expit, logit
from transformers import AutoModelForImageClassification

from ..data import ViewDataset
from ..errors import DatasetError
from ..models import MuraImageProcessor
from ..training import predict_views

_EDGE = 1e-12  # probabilities are kept this far from 0 and 1, so that their logits stay finite


def answer_split(run: Path, rows: Dataset, split: str, *, cpu: bool = False) -> None:
    """Writes what a run's checkpoint says of the studies of a split, unless that stands already.

    Args:
        run: Folder of the run, with `checkpoint/`.
        rows: The split.
        split: Its name.
        cpu: Whether to stay on the CPU.
    """
    if _file(run, split).is_file():
        return
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=cpu)
    checkpoint = run / "checkpoint"
    model = accelerator.prepare_model(
        AutoModelForImageClassification.from_pretrained(checkpoint), evaluation_mode=True
    )
    views = ViewDataset(rows, MuraImageProcessor.from_pretrained(checkpoint))
    studies = predict_views(model, views, accelerator, progress=f"{run.name}, {split}").by_study()
    np.savez(_file(run, split), study_ids=list(studies), probabilities=[row[0] for row in studies.values()])


def read_answers(run: Path, rows: Dataset, split: str) -> np.ndarray:
    """Probabilities of the studies of a split, float64 `[n]` in first-seen order.

    Raises:
        DatasetError: If the answers are about other studies.
    """
    with np.load(_file(run, split)) as found:
        if list(found["study_ids"]) != list(dict.fromkeys(rows["study_id"])):
            raise DatasetError(f"{_file(run, split)} is about other studies; remove it, or name a new folder")
        return found["probabilities"].astype(np.float64)


def read_truth_of(rows: Dataset, *columns: str) -> list[np.ndarray]:
    """Columns of the studies' first rows, each `[n]` in first-seen order."""
    first: dict[str, tuple[Any, ...]] = {}
    for study, *values in zip(rows["study_id"], *(rows[column] for column in columns), strict=True):
        first.setdefault(study, tuple(values))
    return [np.asarray(values) for values in zip(*first.values(), strict=True)]


def call_as_many(probabilities: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities moved along so that a threshold of .5 calls as many of some other studies abnormal as are.

    A network's own .5 means little where classes were balanced or weighted in training. Calling as many as there are
    is close to the best for kappa, and steadier on few studies than looking for the best.

    Args:
        probabilities: `[n]`, in [0, 1].
        reference: `[m]`, of the other studies (calib, never those that are measured).
        labels: `[m]`, theirs.

    Returns:
        float64 `[n]`, ranked as before.
    """
    threshold = np.quantile(reference, 1 - float(np.mean(labels)))
    odds, at = (logit(np.clip(values, _EDGE, 1 - _EDGE)) for values in (probabilities, threshold))
    return expit(odds - at)


def _file(run: Path, split: str) -> Path:
    return run / f"{split}_studies.npz"
