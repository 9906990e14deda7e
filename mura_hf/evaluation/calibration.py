"""Calibrates a checkpoint on `calib` and chooses its operating points."""

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
from .prediction_cache import PredictionCache

CALIBRATION = ("temperature", "study_slope", "study_intercept")
"""Names of the calibration's values in a checkpoint's config."""

_EPSILON = 1e-12  # keeps logits and logarithms of probabilities finite


def calibrate_checkpoint(
    folder: str | Path,
    rows: Dataset,
    *,
    batch_size: int = 32,
    cpu: bool = False,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Fits temperature, study slope and study intercept, chooses operating points, and writes them to `config.json`.

    A record of the fit is added to `training.json` if that exists. An earlier calibration is replaced, and weights
    stay untouched. Earlier evaluations are outdated afterwards; run `evaluate_checkpoint` again.

    Args:
        folder: The checkpoint.
        rows: The split `calib`, which was used neither for training nor for selection.
        batch_size, cpu, cache_dir: See `evaluate_checkpoint`.

    Returns:
        `temperature`, `study_slope`, `study_intercept`, `operating_points`, the numbers `n` and `n_abnormal` of
        studies, and `before` and `after`: `brier`, `ece` and `cross_entropy` on these same studies, so `after` is
        optimistic.

    Raises:
        DatasetError: If the rows lack a class.
    """
    if set(rows["label"]) != {0, 1}:
        raise DatasetError("calib needs normal and abnormal studies; use more data or a larger calib_fraction")
    folder, accelerator = Path(folder), Accelerator(cpu=cpu)
    cache = PredictionCache(folder, rows, accelerator, batch_size=batch_size, cache_dir=cache_dir)
    predictions = cache.predict(temperature=1.0, progress="Calibrating")
    temperature = round(fit_temperature(_logit(predictions.probabilities), predictions.labels), 4)
    before, labels = predictions.study_probabilities()
    scaled, _ = change_temperature(cache, predictions, temperature).study_probabilities()
    slope, intercept = (round(value, 4) for value in fit_study_calibration(scaled, labels))
    after = calibrate_studies(scaled, slope, intercept)
    fit: dict[str, Any] = dict(zip(CALIBRATION, (temperature, slope, intercept), strict=True))
    fit["operating_points"] = choose_operating_points(labels, after)
    record = {
        **fit,
        "n": len(labels),
        "n_abnormal": int(labels.sum()),
        "before": probability_errors(labels, before),
        "after": probability_errors(labels, after),
    }
    if accelerator.is_main_process:
        config = AutoConfig.from_pretrained(folder)
        config.update(fit)
        with tempfile.TemporaryDirectory() as temporary:
            config.save_pretrained(temporary)
            replace_file(folder / "config.json", (Path(temporary) / "config.json").read_bytes())
        add_to_training_record(folder, {"calibration": record})
    return record


def change_temperature(
    cache: PredictionCache, predictions: SplitPredictions, temperature: float, *, current: float = 1.0
) -> SplitPredictions:
    """Returns the predictions at another temperature; `current` is the temperature of `predictions`.

    A model that pools its views itself predicts again.
    """
    if predictions.pooled is not None:
        return cache.predict(temperature=temperature, progress=f"With temperature {temperature:g}")
    return predictions.with_probabilities(expit(_logit(predictions.probabilities) * current / temperature))


def _logit(probabilities: np.ndarray) -> np.ndarray:
    return logit(np.clip(probabilities, _EPSILON, 1 - _EPSILON))


def probability_errors(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Computes `brier` score, `ece` and `cross_entropy` (mean of -log P(true label))."""
    figures = classification_metrics(labels, probabilities)
    of_truth = np.clip(np.where(labels == 1, probabilities, 1 - probabilities), _EPSILON, 1)
    errors = {name: value for name in ("brier", "ece") if (value := figures[name]) is not None}
    return {**errors, "cross_entropy": float(-np.log(of_truth).mean())}


def add_to_training_record(folder: Path, fields: dict[str, Any]) -> None:
    """Adds fields to a checkpoint's `training.json` if that exists."""
    file = folder / "training.json"
    if file.is_file():
        training = {**json.loads(file.read_text()), **fields}
        replace_file(file, (json.dumps(training, indent=2) + "\n").encode())
