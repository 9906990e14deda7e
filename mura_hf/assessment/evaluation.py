"""A checkpoint against a split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset

from ..data import ViewDataset
from ..errors import DatasetError
from ..evaluation import bootstrap_confidence_intervals, classification_metrics
from ..models import BODY_PARTS, MuraForImageClassification, MuraImageProcessor
from ..training import SplitPredictions, predict_views

N_RESAMPLES = 2000


def evaluate_checkpoint(
    folder: str | Path, rows: Dataset, split: str, *, threshold: float = 0.5, batch_size: int = 32, cpu: bool = False
) -> dict[str, Any]:
    """Measures a checkpoint on a split and writes `evaluation.json` beside its weights.

    Args:
        folder: The checkpoint.
        rows: The split, as `load_mura` gives it.
        split: Its name.
        threshold: Abnormal is called strictly above it.
        batch_size: Views a step.
        cpu: Whether to stay on the CPU.

    Returns:
        What was written: figures with 95 % intervals from a bootstrap over patients, for `image` and `study` level,
        each `overall` and by body part.

    Raises:
        DatasetError: If the split is empty.
    """
    if not len(rows):
        raise DatasetError(f"the split {split} is empty; choose other body parts or another split")
    accelerator = Accelerator(cpu=cpu)
    model = accelerator.prepare_model(MuraForImageClassification.from_pretrained(folder), evaluation_mode=True)
    views = ViewDataset(rows, MuraImageProcessor.from_pretrained(folder))
    found = predict_views(model, views, accelerator, batch_size=batch_size, progress=f"Evaluating {split}")
    report = {
        "split": split,
        "threshold": threshold,
        "n_resamples": N_RESAMPLES,
        "trained_on_phantoms": accelerator.unwrap_model(model).config.trained_on_phantoms,
        **_figures(found, threshold),
    }
    if accelerator.is_main_process:
        (Path(folder) / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _figures(found: SplitPredictions, threshold: float) -> dict[str, Any]:
    means, labels, patients, parts = (np.asarray(column) for column in zip(*found.by_study().values(), strict=True))
    levels = {
        "image": (found.labels, found.probabilities, np.asarray(found.patient_ids), found.body_parts),
        "study": (labels, means, patients, parts),
    }
    report: dict[str, Any] = {}
    for level, (truth, probabilities, groups, places) in levels.items():
        subsets = {"overall": np.ones(len(truth), bool)}
        subsets.update({part: places == index for index, part in enumerate(BODY_PARTS) if (places == index).any()})
        report[level] = {
            name: {
                "figures": classification_metrics(truth[chosen], probabilities[chosen], threshold),
                "intervals": bootstrap_confidence_intervals(
                    truth[chosen], probabilities[chosen], groups[chosen], threshold, N_RESAMPLES
                ),
            }
            for name, chosen in subsets.items()
        }
    right = None if found.found_parts is None else float(np.mean(found.found_parts == found.body_parts))
    return {**report, "body_part_accuracy": right}
