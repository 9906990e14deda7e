"""Compares two checkpoints on the same studies."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoConfig

from ..common import replace_file
from ..errors import DatasetError
from ..metrics import paired_bootstrap
from .evaluation import N_RESAMPLES, score_levels
from .prediction_cache import PredictionCache, digest_rows
from .summary import with_old_names


def compare_checkpoints(
    folder: str | Path,
    other: str | Path,
    rows: Dataset,
    other_rows: Dataset,
    *,
    batch_size: int = 32,
    cpu: bool = False,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Adds a comparison with another checkpoint to `evaluation.json`.

    Both are measured on the same resamples of patients (see `paired_bootstrap`), each at its own threshold.

    Args:
        folder: The checkpoint, already evaluated on `rows`.
        other: The checkpoint to compare it with.
        rows: The split.
        other_rows: The split as the other checkpoint's training cut it.
        batch_size: Number of views per step.
        cpu: Whether to stay on the CPU.
        cache_dir: Folder of cached predictions, see `PredictionCache`.

    Returns:
        The new content of `evaluation.json`. Its `comparison` holds `checkpoint` (the name of the other's folder),
        `weights_sha256`, and for `image` and `study` the difference of each metric.

    Raises:
        DatasetError: If the two checkpoints were trained on different cuts of the data, so that one may have been
            trained on these patients, or if `evaluation.json` is about other weights or studies.
    """
    if digest_rows(rows) != digest_rows(other_rows):
        raise DatasetError(
            f"{folder} and {other} were cut in different ways, so one may have been trained on what the other is "
            "measured on; compare checkpoints of the same data and cut"
        )
    accelerator, file = Accelerator(cpu=cpu), Path(folder) / "evaluation.json"
    thresholds, levels, weights = [], [], []
    for place in (folder, other):
        cache = PredictionCache(place, rows, accelerator, batch_size=batch_size, cache_dir=cache_dir)
        config = AutoConfig.from_pretrained(place)
        predictions = cache.predict(progress=f"Comparing {Path(place).name}")
        levels.append(score_levels(predictions, config.study_slope, config.study_intercept))
        thresholds.append(config.operating_points[config.default_operating_point])
        weights.append(cache.weights_sha256)
    report = json.loads(file.read_text())
    n_studies = report["study"]["overall"]["figures"]["n"]
    if report["weights_sha256"] != weights[0] or n_studies != len(levels[0]["study"].labels):
        raise DatasetError(f"{file} is about other weights or studies; evaluate {folder} on these first")
    report["comparison"] = {"checkpoint": Path(other).resolve().name, "weights_sha256": weights[1]}
    for level, ours in levels[0].items():
        pair = ours.probabilities, levels[1][level].probabilities
        report["comparison"][level] = paired_bootstrap(
            ours.labels, *pair, ours.patients, (thresholds[0], thresholds[1]), N_RESAMPLES
        )
    report = with_old_names(report)
    if accelerator.is_main_process:
        replace_file(file, (json.dumps(report, indent=2) + "\n").encode())
    return report
