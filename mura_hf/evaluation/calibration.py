"""Calibrates a checkpoint on `calib` and chooses its operating points."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from scipy.special import expit, logit
from sklearn.model_selection import StratifiedGroupKFold
from transformers import AutoConfig

from ..common import read_training, replace_file
from ..data import SOURCES
from ..data.views import labels_and_patients
from ..metrics import (
    CONFIDENCE,
    SCREENING_POINT,
    calibrate_studies,
    choose_bands,
    choose_default,
    choose_operating_points,
    classification_metrics,
    fit_study_calibration,
    fit_temperature,
    measure_bands,
    too_few_studies,
)
from ..training import SplitPredictions
from .prediction_cache import PredictionCache
from .splits import rows_to_measure

CALIBRATION = ("temperature", "study_slope", "study_intercept")
"""Names of the calibration's values in a checkpoint's config."""

_NONE = (1.0, 1.0, 0.0)  # temperature, slope and intercept that change nothing
_N_FOLDS = 5

_EPSILON = 1e-12  # keeps logits and logarithms of probabilities finite


def calibrate_checkpoint(
    folder: str | Path,
    rows: Dataset,
    *,
    default_operating_point: str | None = None,
    start: str | Path | None = None,
    batch_size: int = 32,
    cpu: bool = False,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Fits temperature, study slope and study intercept, chooses operating points and bands, and writes `config.json`.

    A calibration is kept only if it does not raise the Brier score or the calibration error of patients whom it was
    not fitted to (cross-validation over patients, or over films if patients are unknown). With fewer studies than
    `MIN_SIZES`, nothing is fitted.

    A record of the fit is added to `training.json` if that exists. An earlier calibration is replaced, and weights
    stay untouched. Earlier evaluations are outdated afterwards; run `evaluate_checkpoint` again.

    Args:
        folder: The checkpoint.
        rows: The split `calib`, which was used neither for training nor for selection. Only rows in scope count.
        default_operating_point: Operating point that predictions use by default, and that the bands enclose. If None,
            it is the screening point, see `choose_default`. If `calib` has too few studies for that one, the default
            is "paper", and there are no bands.
        start: Folder of the checkpoint whose backbone and heads training started from. If `calib` has too few studies
            to fit anything, the calibration, operating points and bands of that one are kept, without guarantees.
        batch_size, cpu, cache_dir: See `evaluate_checkpoint`.

    Returns:
        `temperature`, `study_slope`, `study_intercept`, `operating_points`, `default_operating_point`, `bands`, the
        `confidence` of their guarantees, what these count as independent (`guarantees_count`: patients, or films of
        data without patients), the numbers `n` and `n_abnormal` of studies, and `bands_on_calib` (from
        `measure_bands`, so optimistic). `before` and `held_out`: `brier`, `ece` and `cross_entropy`
        without calibration, and with the calibration that was fitted to other patients. `after`: the same on the
        studies of the fit, so it is optimistic. `not_calibrated`, `no_operating_points` and `no_screening_point`: why
        these were left out, if they were. `kept_from`: name of the start whose values were kept.

    Raises:
        ValueError: If `calib` does not give the requested `default_operating_point`.
    """
    folder, accelerator, rows = Path(folder), Accelerator(cpu=cpu), rows_to_measure(rows)
    labels, patients = labels_and_patients(rows)
    fit: dict[str, Any] = {**dict(zip(CALIBRATION, _NONE, strict=True)), "operating_points": {"paper": 0.5}}
    fit |= {"default_operating_point": None, "bands": None}
    record: dict[str, Any] = {
        "n": len(labels),
        "n_abnormal": sum(labels),
        "guarantees_count": _unit_of_guarantees(folder),
    }
    reasons = {
        "not_calibrated": too_few_studies(labels, patients, "calibration"),
        "no_operating_points": too_few_studies(labels, patients, "operating_points"),
    }
    if not all(reasons.values()):
        cache = PredictionCache(folder, rows, accelerator, batch_size=batch_size, cache_dir=cache_dir)
        predictions = cache.predict(temperature=1.0, progress="Calibrating")
        probabilities, truth = predictions.study_probabilities()
        units = list(predictions.by_study()) if record["guarantees_count"] == "films" else patients
        if reasons["not_calibrated"] is None:
            try:
                values, after = _fit(cache, predictions)
                held_out = _cross_validate(cache, predictions, units)
            except ValueError as error:  # the wrong sign
                reasons["not_calibrated"] = str(error)
            else:
                states = {"before": probabilities, "after": after, "held_out": held_out}
                record |= {when: probability_errors(truth, one) for when, one in states.items()}
                if worse := _what_is_worse(record):
                    reasons["not_calibrated"] = f"on patients whom it was not fitted to, it would raise the {worse}"
                else:
                    fit |= dict(zip(CALIBRATION, values, strict=True))
                    probabilities = after
        if reasons["no_operating_points"] is None:
            try:
                fit["operating_points"] = choose_operating_points(truth, probabilities, units)
            except ValueError as error:
                reasons["no_operating_points"] = str(error)
            else:
                if not fit["operating_points"].get(SCREENING_POINT):
                    reasons["no_screening_point"] = "too few abnormal patients to exclude a sensitivity below .85"
                record |= _choose_bands(fit, truth, probabilities, units, default_operating_point)
    elif start is not None:
        known = AutoConfig.from_pretrained(start)
        fit = {name: getattr(known, name) for name in fit}
        record["kept_from"] = (read_training(folder).get("base") or {}).get("name", Path(start).name)
    if default_operating_point not in (None, *fit["operating_points"]):
        raise ValueError(
            f"calib does not give the operating point {default_operating_point!r}, only "
            f"{', '.join(fit['operating_points'])}; choose one of these as the default"
        )
    skipped = {name: reason for name, reason in reasons.items() if reason}
    record = {"confidence": CONFIDENCE, **fit, **record, **skipped}
    if accelerator.is_main_process:
        config = AutoConfig.from_pretrained(folder)
        config.update(fit)
        with tempfile.TemporaryDirectory() as temporary:
            config.save_pretrained(temporary)
            replace_file(folder / "config.json", (Path(temporary) / "config.json").read_bytes())
        add_to_training_record(folder, {"calibration": record})
    return record


def _unit_of_guarantees(folder: Path) -> str:
    """What guarantees count as independent: "patients", or "films" if the data do not name patients.

    Blocks of films stand for patients elsewhere, so that intervals are not too narrow. They are too few for a
    guarantee: a block is no patient, and FracAtlas has most of its fractures in a few blocks.
    """
    source = SOURCES.get(read_training(folder).get("data", {}).get("key", ""))
    return "films" if source is not None and not source.has_patient_ids else "patients"


def _choose_bands(
    fit: dict[str, Any], labels: np.ndarray, probabilities: np.ndarray, patients: list[str], default: str | None
) -> dict[str, Any]:
    """Sets `default_operating_point` and `bands` of a fit. Returns what to record about the bands."""
    default = choose_default(fit["operating_points"]) if default is None else default
    threshold = fit["operating_points"].get(default)
    bands = None if threshold is None else choose_bands(probabilities, patients, threshold)
    fit |= {"default_operating_point": default, "bands": bands}
    if bands is None:
        return {}
    return {"bands_on_calib": measure_bands(labels, probabilities, patients, (bands["low"], bands["suspected"]))}


def _what_is_worse(record: dict[str, Any]) -> str:
    """Names the errors that a calibration raises on patients whom it was not fitted to; empty if none."""
    return " and the ".join(
        f"{title} from {record['before'][name]:.4f} to {record['held_out'][name]:.4f}"
        for name, title in (("brier", "Brier score"), ("ece", "calibration error"))
        if record["held_out"][name] > record["before"][name]
    )


def _fit(
    cache: PredictionCache, predictions: SplitPredictions, fitted: np.ndarray | None = None
) -> tuple[tuple[float, float, float], np.ndarray]:
    """Fits to some studies (bool `[n]`; default all). Returns the values of `CALIBRATION`, and all probabilities."""
    studies, labels = list(predictions.by_study()), predictions.study_probabilities()[1]
    fitted = np.ones(len(studies), bool) if fitted is None else fitted
    views = np.isin(predictions.study_ids, np.asarray(studies)[fitted])
    temperature = round(fit_temperature(_logit(predictions.probabilities[views]), predictions.labels[views]), 4)
    scaled, _ = change_temperature(cache, predictions, temperature).study_probabilities()
    slope, intercept = (round(value, 4) for value in fit_study_calibration(scaled[fitted], labels[fitted]))
    return (temperature, slope, intercept), calibrate_studies(scaled, slope, intercept)


def _cross_validate(cache: PredictionCache, predictions: SplitPredictions, units: list[str]) -> np.ndarray:
    """Probability of each study with a calibration that was fitted to other patients or films, float64 `[n]`."""
    probabilities, labels, _, _ = map(np.asarray, zip(*predictions.by_study().values(), strict=True))
    held_out = np.empty(len(labels))
    folds = StratifiedGroupKFold(_N_FOLDS, shuffle=True, random_state=0)
    for _, members in folds.split(probabilities, labels, units):
        fitted = np.ones(len(labels), bool)
        fitted[members] = False
        held_out[members] = _fit(cache, predictions, fitted)[1][members]
    return held_out


def change_temperature(
    cache: PredictionCache, predictions: SplitPredictions, temperature: float, *, current: float = 1.0
) -> SplitPredictions:
    """Returns the predictions at another temperature; `current` is the temperature of `predictions`.

    A model that pools its views itself predicts again.
    """
    if predictions.pooled is not None:
        return cache.predict(temperature=temperature, progress=f"With temperature {temperature:g}")
    return replace(predictions, probabilities=expit(_logit(predictions.probabilities) * current / temperature))


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
