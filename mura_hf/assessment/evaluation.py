"""A checkpoint against a split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoModelForImageClassification

from ..data import UNKNOWN_PART, ViewDataset
from ..data.fracatlas import REGION_GROUPS
from ..errors import DatasetError
from ..evaluation import bootstrap_confidence_intervals, calibrate_studies, classification_metrics
from ..inference import StudyPredictor
from ..models import BODY_PARTS, MuraBaseConfig, MuraImageProcessor
from ..training import SplitPredictions, predict_views
from ..training.states import replace_file
from .calibration import CALIBRATION
from .pointing import can_point, pointing_game
from .twins import measure_twins

N_RESAMPLES = 2000


def evaluate_checkpoint(
    folder: str | Path,
    rows: Dataset,
    split: str,
    *,
    data: dict[str, Any] | None = None,
    threshold: float | None = None,
    batch_size: int = 32,
    twins: int = 0,
    cpu: bool = False,
) -> dict[str, Any]:
    """Measures a checkpoint on a split and writes `evaluation.json` beside its weights.

    Args:
        folder: The checkpoint.
        rows: The split, as `load_mura` gives it.
        split: Its name.
        data: What the rows are, as `load_split` says it; None where they are like those of training.
        threshold: Abnormal is called strictly above it; the checkpoint's own, as `StudyPredictor` has it, where None.
        batch_size: Views a step.
        twins: Patients to render with and without a finding, a marker or a ring; see `measure_twins`. 0 leaves it out.
        cpu: Whether to stay on the CPU.

    Returns:
        What was written: figures with 95 % intervals from a bootstrap over patients, for `image` and `study` level,
        each `overall` and by body part. Studies' probabilities are calibrated as the checkpoint's config says. Where
        the rows tell regions: `region`, studies that show one of each of `REGION_GROUPS`. Where they know their
        findings: `finding`, each kind of abnormal study against all normal ones, and, where the model has heatmaps,
        `pointing` (see `pointing_game`); where asked for, `twins`.

    Raises:
        DatasetError: If the split is empty.
    """
    if not len(rows):
        raise DatasetError(f"the split {split} is empty; choose other body parts or another split")
    accelerator = Accelerator(cpu=cpu)
    model = accelerator.prepare_model(AutoModelForImageClassification.from_pretrained(folder), evaluation_mode=True)
    config = accelerator.unwrap_model(model).config
    if threshold is None:
        threshold = config.operating_points[config.default_operating_point]
    views = ViewDataset(rows, MuraImageProcessor.from_pretrained(folder))
    found = predict_views(model, views, accelerator, batch_size=batch_size, progress=f"Evaluating {split}")
    report = {
        "split": split,
        **({"data": data} if data else {}),
        "threshold": threshold,
        "n_resamples": N_RESAMPLES,
        "trained_on_phantoms": config.trained_on_phantoms,
        "calibration": {name: getattr(config, name) for name in CALIBRATION},
        **_figures(found, threshold, config, _of_studies(rows, "finding"), _of_studies(rows, "region")),
    }
    if accelerator.is_main_process:
        predictor = StudyPredictor.from_pretrained(Path(folder), device=accelerator.device)
        if can_point(predictor, rows):
            report["pointing"] = pointing_game(predictor, rows)
        if twins:
            report["twins"] = measure_twins(predictor, twins)
        replace_file(Path(folder) / "evaluation.json", (json.dumps(report, indent=2) + "\n").encode())
    return report


def _of_studies(rows: Dataset, column: str) -> dict[str, str] | None:
    """Study id -> its word in a column, of those that have one; None where the rows lack the column."""
    if column not in rows.column_names:
        return None
    return {study: word for study, word in zip(rows["study_id"], rows[column], strict=True) if word}


def measure_levels(
    found: SplitPredictions, threshold: float = 0.5, *, slope: float = 1.0, intercept: float = 0.0
) -> dict[str, dict[str, Any]]:
    """Figures with 95 % intervals from a bootstrap over patients, of images and of studies.

    Args:
        found: What a model says of a split.
        threshold: Abnormal is called strictly above it.
        slope: Of the studies' calibration, see `calibrate_studies`.
        intercept: Likewise.

    Returns:
        `image` and `study`, each with `overall` and the body parts that are there, each with `figures` and
        `intervals`.
    """
    means, labels, patients, parts = (np.asarray(column) for column in zip(*found.by_study().values(), strict=True))
    means = calibrate_studies(means, slope, intercept)
    levels = {
        "image": (found.labels, found.probabilities, np.asarray(found.patient_ids), found.body_parts),
        "study": (labels, means, patients, parts),
    }
    report: dict[str, Any] = {}
    for level, (truth, probabilities, groups, places) in levels.items():
        subsets = {"overall": np.ones(len(truth), bool)}
        subsets.update({part: places == index for index, part in enumerate(BODY_PARTS) if (places == index).any()})
        report[level] = {
            name: _with_intervals(truth[chosen], probabilities[chosen], groups[chosen], threshold)
            for name, chosen in subsets.items()
        }
    return report


def _figures(
    found: SplitPredictions,
    threshold: float,
    config: MuraBaseConfig,
    findings: dict[str, str] | None,
    regions: dict[str, str] | None,
) -> dict[str, Any]:
    calibration = {"slope": config.study_slope, "intercept": config.study_intercept}
    report: dict[str, Any] = measure_levels(found, threshold, **calibration)
    studies = found.by_study()
    means, labels, patients, _ = (np.asarray(column) for column in zip(*studies.values(), strict=True))
    means = calibrate_studies(means, **calibration)
    if regions is not None:
        shown = [set(regions.get(study, "").split("+")) for study in studies]
        found_groups = {}
        for name, group in REGION_GROUPS.items():
            chosen = np.asarray([bool(words & set(group)) for words in shown])
            if chosen.any():
                found_groups[name] = _with_intervals(labels[chosen], means[chosen], patients[chosen], threshold)
        if found_groups:
            report["region"] = found_groups
    if findings is not None:
        kinds = np.asarray([findings.get(study, "") for study in studies])
        report["finding"] = {
            str(kind): _with_intervals(labels[chosen], means[chosen], patients[chosen], threshold)
            for kind in sorted(set(kinds) - {""})
            for chosen in [(kinds == kind) | (labels == 0)]
        }
    known = found.body_parts != UNKNOWN_PART
    right = None
    if found.found_parts is not None and known.any():
        right = float(np.mean(found.found_parts[known] == found.body_parts[known]))
    return {**report, "body_part_accuracy": right}


def _with_intervals(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, threshold: float
) -> dict[str, Any]:
    return {
        "figures": classification_metrics(labels, probabilities, threshold),
        "intervals": bootstrap_confidence_intervals(labels, probabilities, groups, threshold, N_RESAMPLES),
    }
