"""What can be had without looking at a picture."""

from typing import Any

import numpy as np
from datasets import Dataset

from ..evaluation import (
    bootstrap_confidence_intervals,
    classification_metrics,
    constant_baseline,
    random_baseline,
    view_count_baseline,
)


def measure_baselines(train: Dataset, held_out: Dataset, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Measures the baselines on the studies of a split.

    Args:
        train: What the share of abnormal studies, alone and by number of views, is taken from.
        held_out: The split to answer for.
        seed: Of the random classifier.

    Returns:
        `random`, `constant` and `view_count`, each with `figures` and `intervals` (95 %, over patients) as
        `evaluate_checkpoint` gives them.
    """
    fitted, asked = _studies(train), _studies(held_out)
    answers = {
        "random": random_baseline(len(asked["labels"]), seed),
        "constant": constant_baseline(len(asked["labels"]), float(fitted["labels"].mean())),
        "view_count": view_count_baseline(fitted["views"], fitted["labels"], asked["views"]),
    }
    return {
        name: {
            "figures": classification_metrics(asked["labels"], values),
            "intervals": bootstrap_confidence_intervals(asked["labels"], values, asked["patients"]),
        }
        for name, values in answers.items()
    }


def _studies(rows: Dataset) -> dict[str, np.ndarray]:
    """Number of views, label and patient of each study, in first-seen order."""
    found: dict[str, list[Any]] = {}
    for study, label, patient in zip(rows["study_id"], rows["label"], rows["patient_id"], strict=True):
        found.setdefault(study, [0, label, patient])[0] += 1
    views, labels, patients = zip(*found.values(), strict=True)
    return {"views": np.asarray(views), "labels": np.asarray(labels), "patients": np.asarray(patients)}
