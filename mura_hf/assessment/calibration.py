"""Calibration of a checkpoint on `calib`."""

import tempfile
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from scipy.special import expit, logit
from transformers import AutoModelForImageClassification

from ..data import ViewDataset
from ..errors import DatasetError
from ..evaluation import calibrate_studies, fit_study_calibration, fit_temperature
from ..models import MuraImageProcessor
from ..training import predict_views
from ..training.states import replace_file

CALIBRATION = ("temperature", "study_slope", "study_intercept")
"""Names of the calibration's values in a checkpoint's config."""

_EDGE = 1e-12


def calibrate_checkpoint(
    folder: str | Path, rows: Dataset, *, batch_size: int = 32, cpu: bool = False
) -> dict[str, float]:
    """Fits temperature, study slope and study intercept, and writes them into the checkpoint's `config.json`.

    The fit starts afresh: what stood there is replaced, and thresholds that were chosen on the old probabilities go,
    but for "paper". Weights are not touched. What was measured before holds no more: run `evaluate_checkpoint` again.

    Args:
        folder: The checkpoint.
        rows: The split `calib`, which neither training nor selection has seen.
        batch_size: Views a step.
        cpu: Whether to stay on the CPU.

    Returns:
        `temperature`, `study_slope` and `study_intercept`, and the Brier score of the studies of calib as
        `brier_before` (uncalibrated) and `brier_after`.

    Raises:
        DatasetError: If a class is missing among the rows.
    """
    if set(rows["label"]) != {0, 1}:
        raise DatasetError("calib needs normal and abnormal studies; use more data or a larger calib_fraction")
    accelerator = Accelerator(cpu=cpu)
    model = AutoModelForImageClassification.from_pretrained(folder)
    model.config.temperature, model.config.study_slope, model.config.study_intercept = 1.0, 1.0, 0.0
    views = ViewDataset(rows, MuraImageProcessor.from_pretrained(folder))
    prepared = accelerator.prepare_model(model, evaluation_mode=True)
    found = predict_views(prepared, views, accelerator, batch_size=batch_size, progress="Calibrating")
    margins = logit(np.clip(found.probabilities, _EDGE, 1 - _EDGE))
    temperature = round(fit_temperature(margins, found.labels), 4)
    before, labels = found.study_probabilities()
    model.config.temperature = temperature
    if found.pooled is None:
        found = found.with_probabilities(expit(margins / temperature))
    else:  # the model alone can tell what becomes of the studies
        found = predict_views(prepared, views, accelerator, batch_size=batch_size, progress="Calibrating studies")
    warmed, _ = found.study_probabilities()
    slope, intercept = fit_study_calibration(warmed, labels)
    model.config.operating_points = {"paper": model.config.operating_points.get("paper", 0.5)}
    model.config.study_slope, model.config.study_intercept = round(slope, 4), round(intercept, 4)
    if accelerator.is_main_process:
        with tempfile.TemporaryDirectory() as fresh:
            model.config.save_pretrained(fresh)
            replace_file(Path(folder) / "config.json", (Path(fresh) / "config.json").read_bytes())
    after = calibrate_studies(warmed, slope, intercept)
    return {
        "temperature": model.config.temperature,
        "study_slope": model.config.study_slope,
        "study_intercept": model.config.study_intercept,
        "brier_before": float(np.mean((before - labels) ** 2)),
        "brier_after": float(np.mean((after - labels) ** 2)),
    }
