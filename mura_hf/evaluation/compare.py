"""Two checkpoints on the same studies."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoConfig

from ..common import replace_file
from ..errors import DatasetError
from ..metrics import paired_bootstrap
from ..training import SplitPredictions
from .evaluation import N_RESAMPLES, Answers, calibrate_single_views
from .prediction_cache import KeptAnswers, digest_rows


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
    """Adds to a checkpoint's `evaluation.json` how much better it is than another one, on the same resamples of
    patients (see `paired_bootstrap`), each at its own threshold.

    Args:
        folder: The checkpoint, evaluated on `rows` already.
        other: The other one.
        rows: The split.
        other_rows: The split as the other one's training cut it.
        batch_size: Views a step.
        cpu: Whether to stay on the CPU.
        cache_dir: As in `KeptAnswers`.

    Returns:
        What was written: the report with `against`: `checkpoint` (the other's folder by name), `weights_sha256`, and
        for `image` and `study` the differences of each figure.

    Raises:
        DatasetError: If the two were not cut alike, so that one may have been trained on these patients, or
            `evaluation.json` is of other studies.
    """
    if digest_rows(rows) != digest_rows(other_rows):
        raise DatasetError(
            f"{folder} and {other} were cut in different ways, so that one may have been trained on what the other is "
            "measured on; compare checkpoints of the same data and cut"
        )
    accelerator, file = Accelerator(cpu=cpu), Path(folder) / "evaluation.json"
    levels, found = [], []
    for place in (folder, other):
        answers = KeptAnswers(place, rows, accelerator, batch_size=batch_size, cache_dir=cache_dir)
        levels.append(_levels(answers.predict(progress=f"Comparing {Path(place).name}"), place))
        found.append(answers)
    (ours, threshold), (theirs, their_threshold) = levels
    report = json.loads(file.read_text())
    if report["weights_sha256"] != found[0].weights or report["study"]["overall"]["figures"]["n"] != len(
        ours["study"][0]
    ):
        raise DatasetError(f"{file} is of other weights or studies; evaluate {folder} on these first")
    report["against"] = {"checkpoint": Path(other).resolve().name, "weights_sha256": found[1].weights}
    for level, (labels, probabilities, patients) in ours.items():
        report["against"][level] = paired_bootstrap(
            labels, probabilities, theirs[level][1], patients, (threshold, their_threshold), N_RESAMPLES
        )
    if accelerator.is_main_process:
        replace_file(file, (json.dumps(report, indent=2) + "\n").encode())
    return report


def _levels(found: SplitPredictions, folder: str | Path) -> tuple[dict[str, tuple[Any, Any, Any]], float]:
    """Labels, probabilities and patients of images and of studies, and the checkpoint's threshold."""
    config = AutoConfig.from_pretrained(folder)
    studies = Answers(found, config.study_slope, config.study_intercept)
    single_view = calibrate_single_views(found, config.study_slope, config.study_intercept)
    levels = {
        "image": (found.labels, single_view, found.patient_ids),
        "study": (studies.labels, studies.probabilities, studies.patients),
    }
    return levels, config.operating_points[config.default_operating_point]
