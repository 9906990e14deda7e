"""Calibration of a checkpoint, and its operating points, on `calib`."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from scipy.special import expit, logit
from transformers import AutoConfig

from ..common import replace_file
from ..errors import DatasetError
from ..metrics import (
    calibrate_studies,
    choose_operating_points,
    classification_metrics,
    fit_study_calibration,
    fit_temperature,
)
from ..training import SplitPredictions
from .prediction_cache import KeptAnswers

CALIBRATION = ("temperature", "study_slope", "study_intercept")
"""Names of the calibration's values in a checkpoint's config."""

_EDGE = 1e-12


def calibrate_checkpoint(
    folder: str | Path,
    rows: Dataset,
    *,
    batch_size: int = 32,
    cpu: bool = False,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Fits temperature, study slope and study intercept, chooses operating points, and writes them into the
    checkpoint's `config.json`; how that went stands in its `training.json`, where there is one.

    The fit starts afresh: what stood there is replaced. Weights are not touched. What was measured before holds no
    more: run `evaluate_checkpoint` again.

    Args:
        folder: The checkpoint.
        rows: The split `calib`, which neither training nor selection has seen.
        batch_size: Views a step.
        cpu: Whether to stay on the CPU.
        cache_dir: As in `KeptAnswers`.

    Returns:
        `temperature`, `study_slope`, `study_intercept`, `operating_points` (see `choose_operating_points`),
        `n` and `n_abnormal` studies, and `before` and `after`, with `brier`, `ece` and `cross_entropy` of these
        studies: of the fit itself, so that `after` flatters.

    Raises:
        DatasetError: If a class is missing among the rows.
    """
    if set(rows["label"]) != {0, 1}:
        raise DatasetError("calib needs normal and abnormal studies; use more data or a larger calib_fraction")
    folder, accelerator = Path(folder), Accelerator(cpu=cpu)
    answers = KeptAnswers(folder, rows, accelerator, batch_size=batch_size, cache_dir=cache_dir)
    found = answers.predict(temperature=1.0, progress="Calibrating")
    margins = logit(np.clip(found.probabilities, _EDGE, 1 - _EDGE))
    temperature = round(fit_temperature(margins, found.labels), 4)
    before, labels = found.study_probabilities()
    warmed, _ = change_temperature(answers, found, temperature).study_probabilities()
    slope, intercept = (round(value, 4) for value in fit_study_calibration(warmed, labels))
    after = calibrate_studies(warmed, slope, intercept)
    fit: dict[str, Any] = {
        "temperature": temperature,
        "study_slope": slope,
        "study_intercept": intercept,
        "operating_points": choose_operating_points(labels, after),
    }
    record = {
        **fit,
        "n": len(labels),
        "n_abnormal": int(labels.sum()),
        "before": probability_errors(labels, before),
        "after": probability_errors(labels, after),
    }
    if accelerator.is_main_process:
        _write(folder, fit, record)
    return record


def change_temperature(
    answers: KeptAnswers, found: SplitPredictions, temperature: float, *, now: float = 1.0
) -> SplitPredictions:
    """Predictions with another temperature.

    Where the model alone can tell what becomes of its studies, it is asked again.

    Args:
        answers: Of the checkpoint and the split.
        found: What it says with the temperature `now`.
        temperature: The other one.
        now: That of `found`.
    """
    if found.pooled is not None:
        return answers.predict(temperature=temperature, progress=f"With temperature {temperature:g}")
    margins = logit(np.clip(found.probabilities, _EDGE, 1 - _EDGE))
    return found.with_probabilities(expit(margins * now / temperature))


def probability_errors(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """How wrong probabilities are: `brier` score, `ece` and `cross_entropy` (mean of -log P(true label))."""
    figures = classification_metrics(labels, probabilities)
    errors = {name: float(value) for name in ("brier", "ece") if (value := figures[name]) is not None}
    right = np.clip(np.where(labels == 1, probabilities, 1 - probabilities), _EDGE, 1)
    return {**errors, "cross_entropy": float(-np.log(right).mean())}


def _write(folder: Path, fit: dict[str, Any], record: dict[str, Any]) -> None:
    """Puts the values into the config, and what was done into the record of training."""
    config = AutoConfig.from_pretrained(folder)
    for name, value in fit.items():
        setattr(config, name, value)
    with tempfile.TemporaryDirectory() as fresh:
        config.save_pretrained(fresh)
        replace_file(folder / "config.json", (Path(fresh) / "config.json").read_bytes())
    file = folder / "training.json"
    if file.is_file():
        training = {**json.loads(file.read_text()), "calibration": record}
        replace_file(file, (json.dumps(training, indent=2) + "\n").encode())
