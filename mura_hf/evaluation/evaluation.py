"""Evaluates a checkpoint on a split: metrics of images and studies, baselines, operating points, heatmaps and more."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoConfig

from ..common import replace_file
from ..data import UNKNOWN_PART
from ..data.open_data import REGION_GROUPS
from ..errors import DatasetError
from ..inference import StudyPredictor
from ..metrics import (
    OPERATING_POINTS,
    EvaluationReport,
    GroupReport,
    bootstrap_confidence_intervals,
    calibrate_studies,
    classification_metrics,
    constant_baseline,
    measure_operating_points,
    measure_reliability,
    plot_evaluation,
    random_baseline,
    view_count_baseline,
)
from ..models import BODY_PARTS, MuraBaseConfig
from ..models.golden_mura import digest_files
from ..retrieval import FOLDER, OOD_FILE, read_record
from ..training import SplitPredictions
from . import masking, ood_detection
from .calibration import CALIBRATION, change_temperature, probability_errors
from .golden import write_golden_check
from .ood_detection import list_images, measure_ood_detection
from .prediction_cache import PredictionCache
from .published import comparable_figures
from .retrieval import measure_retrieval
from .saliency import measure_saliency
from .shortcuts import audit_shortcuts
from .summary import with_old_names

N_RESAMPLES = 2000
"""Number of resamples of the bootstrap."""

PREVALENCE = 0.1
"""Default share of abnormal studies for the predictive values."""


def evaluate_checkpoint(
    folder: str | Path,
    rows: Dataset,
    split: str,
    *,
    train: Dataset | None = None,
    data: dict[str, Any] | None = None,
    threshold: float | None = None,
    prevalence: float = PREVALENCE,
    batch_size: int = 32,
    counterfactuals: int = 0,
    ood_folders: Mapping[str, str | Path] | None = None,
    cpu: bool = False,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint on a split, and writes `evaluation.json`, plots and its golden check to its folder.

    Predictions and slow measurements are cached (see `PredictionCache`).

    Args:
        folder: The checkpoint.
        rows: The split, as `load_mura` gives it.
        split: Name of the split.
        train: Data that the baselines are fitted to; None skips the baselines.
        data: Description of the rows, from `load_splits`; None if they are like the data of training.
        threshold: A study is called abnormal strictly above it; default is the checkpoint's own, as in
            `StudyPredictor`.
        prevalence: Share of abnormal studies for the predictive values, in (0, 1).
        batch_size: Number of views per step.
        counterfactuals: Number of phantom patients for `measure_counterfactuals`. If 0, the shortcut audit paints over
            corners and markers of the split's own images instead.
        ood_folders: Name -> folder of images that the checkpoint should flag as out of distribution, in addition to
            generated ones; see `measure_ood_detection`.
        cpu: Whether to stay on the CPU.
        cache_dir: Folder of the cache, see `PredictionCache`.

    Returns:
        The content of `evaluation.json`. `image` and `study`: metrics with 95 % intervals and confusion matrices,
        `overall` and by body part (see `measure_levels`). `curves` of the studies. `calibration_effect`: errors of the
        probabilities before and after calibration. `operating_points`: the config's thresholds, overall and by body
        part (`groups`) and by region (`regions`), with predictive values at `prevalence`. `baselines`. `published`:
        see `comparable_figures`. `randomization` and other evaluations of heatmaps: see `measure_saliency`.
        `ood_detection`, if the checkpoint has a detector: see `measure_ood_detection`. `retrieval`, if it has an
        index: see `measure_retrieval`. `shortcuts`: see `audit_shortcuts`. `region` and `finding`: metrics by region
        and by kind of finding, if the rows have these. Renamed fields also appear under their former names.

    Raises:
        DatasetError: If the split is empty.
        ValueError: If the threshold lies outside [0, 1], or the prevalence outside (0, 1).
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}: it must lie in [0, 1]")
    if not len(rows):
        raise DatasetError(f"the split {split} is empty; choose other body parts or another split")
    folder, accelerator = Path(folder), Accelerator(cpu=cpu)
    cache = PredictionCache(folder, rows, accelerator, batch_size=batch_size, cache_dir=cache_dir)
    config = AutoConfig.from_pretrained(folder)
    predictions = cache.predict(progress=f"Evaluating {split}")
    how = "given to the evaluation"
    if threshold is None:
        point = config.default_operating_point
        threshold, how = config.operating_points[point], OPERATING_POINTS.get(point, f"operating point {point}")
    calibration = {"slope": config.study_slope, "intercept": config.study_intercept}
    levels = measure_levels(predictions, threshold, **calibration)
    scores = StudyScores.of(predictions, **calibration)
    regions, findings = _values_of_studies(rows, "region"), _values_of_studies(rows, "finding")
    report = {
        "split": split,
        **({"data": data} if data else {}),
        "threshold": threshold,
        "threshold_chosen": how,
        "n_resamples": N_RESAMPLES,
        "trained_on_phantoms": config.trained_on_phantoms,
        "weights_sha256": cache.weights_sha256,
        "calibration": {name: getattr(config, name) for name in CALIBRATION},
        **{level: measured.to_dict() for level, measured in levels.items()},
        "curves": levels["study"].curves,
        "calibration_effect": _calibration_effect(cache, predictions, scores, config),
        "prevalence": prevalence,
        "operating_points": _operating_points(scores, config, prevalence, regions),
        "published": comparable_figures(data, split, levels),
        "body_part_accuracy": _body_part_accuracy(predictions),
    }
    if train is not None and len(train):
        report["baselines"] = measure_baselines(train, rows)
    for name, groups in (("region", scores.by_region(regions)), ("finding", scores.by_finding(findings))):
        if groups:
            report[name] = {group: scores.measure(members, threshold) for group, members in groups.items()}
    if accelerator.is_main_process:
        report |= _measure_by_view(cache, scores, counterfactuals, ood_folders or {})
        report = with_old_names(report)
        replace_file(folder / "evaluation.json", (json.dumps(report, indent=2) + "\n").encode())
        plot_evaluation(report, folder)
        write_golden_check(folder)
    return report


@dataclass(frozen=True, eq=False)
class StudyScores:
    """Calibrated probabilities of a split's studies, in first-seen order; all arrays are `[n]`."""

    study_ids: list[str]
    probabilities: np.ndarray  # float64, calibrated P(abnormal)
    labels: np.ndarray  # 0 normal and 1 abnormal
    patients: np.ndarray
    body_parts: np.ndarray  # indices

    @classmethod
    def of(cls, predictions: SplitPredictions, slope: float = 1.0, intercept: float = 0.0) -> "StudyScores":
        """Pools the predictions for views and calibrates the studies (see `calibrate_studies`)."""
        studies = predictions.by_study()
        means, labels, patients, parts = (np.asarray(column) for column in zip(*studies.values(), strict=True))
        return cls(list(studies), calibrate_studies(means, slope, intercept), labels, patients, parts)

    def by_region(self, regions: dict[str, str]) -> dict[str, np.ndarray]:
        """Returns name in `REGION_GROUPS` -> bool `[n]`, which studies show a region of it; empty ones are left out.

        `regions` maps the id of a study to the regions that it shows, joined by "+".
        """
        shown = [set(regions.get(study, "").split("+")) for study in self.study_ids]
        groups = {name: np.asarray([bool(one & set(group)) for one in shown]) for name, group in REGION_GROUPS.items()}
        return {name: members for name, members in groups.items() if members.any()}

    def by_finding(self, findings: dict[str, str]) -> dict[str, np.ndarray]:
        """Returns kind of finding -> bool `[n]`, the studies with it and all normal studies."""
        kinds = np.asarray([findings.get(study, "") for study in self.study_ids])
        return {str(kind): (kinds == kind) | (self.labels == 0) for kind in sorted(set(kinds) - {""})}

    def measure(self, members: np.ndarray, threshold: float) -> dict[str, Any]:
        """Returns the metrics of some studies, bool `[n]`, see `GroupReport`."""
        return GroupReport.measure(
            self.labels[members], self.probabilities[members], self.patients[members], threshold=threshold,
            n_resamples=N_RESAMPLES,
        ).to_dict()  # fmt: skip


def _by_body_part(parts: np.ndarray) -> dict[str, np.ndarray]:
    """Body part -> bool `[n]`; parts that do not occur are left out."""
    return {part: parts == index for index, part in enumerate(BODY_PARTS) if (parts == index).any()}


def measure_levels(
    predictions: SplitPredictions, threshold: float = 0.5, *, slope: float = 1.0, intercept: float = 0.0
) -> dict[str, EvaluationReport]:
    """Measures images and studies, overall and by body part, with intervals from a bootstrap over patients.

    Args:
        predictions: Predictions for the views of a split.
        threshold: A row is called abnormal strictly above it.
        slope: Slope of the studies' calibration, see `calibrate_studies`.
        intercept: Intercept of the studies' calibration.

    Returns:
        `image`, where each view is a study of its own, and `study`.
    """
    scores = StudyScores.of(predictions, slope, intercept)
    images = calibrate_single_views(predictions, slope, intercept)
    levels: dict[str, tuple[Any, ...]] = {
        "image": (predictions.labels, images, predictions.patient_ids, _by_body_part(predictions.body_parts)),
        "study": (scores.labels, scores.probabilities, scores.patients, _by_body_part(scores.body_parts)),
    }
    return {
        level: EvaluationReport.measure(
            labels, probabilities, patients, groups=parts, threshold=threshold, n_resamples=N_RESAMPLES
        )
        for level, (labels, probabilities, patients, parts) in levels.items()
    }


def calibrate_single_views(predictions: SplitPredictions, slope: float, intercept: float) -> np.ndarray:
    """Returns the calibrated P(abnormal) of each view as a study of its own, `[n]`."""
    values = predictions.single_view_probabilities
    return calibrate_studies(predictions.probabilities if values is None else values, slope, intercept)


def measure_baselines(train: Dataset, held_out: Dataset, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Measures the baselines of `mura_hf.metrics` on the studies of a split.

    Args:
        train: Data that the share of abnormal studies, overall and by number of views, is taken from.
        held_out: The split.
        seed: Seed of the random baseline.

    Returns:
        `random`, `constant` and `view_count`, each with `figures` and 95 % `intervals` over patients.
    """
    (train_views, train_labels, _), (views, labels, patients) = _count_views(train), _count_views(held_out)
    baselines = {
        "random": random_baseline(len(labels), seed),
        "constant": constant_baseline(len(labels), float(train_labels.mean())),
        "view_count": view_count_baseline(train_views, train_labels, views),
    }
    return {
        name: {
            "figures": classification_metrics(labels, values),
            "intervals": bootstrap_confidence_intervals(labels, values, patients),
        }
        for name, values in baselines.items()
    }


def _count_views(rows: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of views, label and patient of each study, in first-seen order."""
    studies = rows.select_columns(["study_id", "label", "patient_id"]).to_pandas().groupby("study_id", sort=False)
    first = studies.first()
    return studies.size().to_numpy(), first["label"].to_numpy(), first["patient_id"].to_numpy()


def _values_of_studies(rows: Dataset, column: str) -> dict[str, str]:
    """Study id -> its value in a column, for studies that have one; empty if the rows lack the column."""
    if column not in rows.column_names:
        return {}
    return {study: value for study, value in zip(rows["study_id"], rows[column], strict=True) if value}


def _calibration_effect(
    cache: PredictionCache, predictions: SplitPredictions, scores: StudyScores, config: MuraBaseConfig
) -> dict[str, Any]:
    """Errors of the studies' probabilities `before` calibration (None if there is none) and `after`."""
    states: dict[str, StudyScores | None] = {"before": None, "after": scores}
    if (config.temperature, config.study_slope, config.study_intercept) != (1, 1, 0):
        states["before"] = StudyScores.of(change_temperature(cache, predictions, 1.0, current=config.temperature))
    return {
        when: None if state is None else {
            **probability_errors(state.labels, state.probabilities),
            "reliability": measure_reliability(state.labels, state.probabilities),
        }
        for when, state in states.items()
    }  # fmt: skip


def _operating_points(
    scores: StudyScores, config: MuraBaseConfig, prevalence: float, regions: dict[str, str]
) -> dict[str, Any]:
    """Name -> `threshold`, how it was `chosen`, and its figures by `groups` (body parts) and `regions`."""
    assert config.operating_points is not None
    groups = {("groups", "overall"): np.ones(len(scores.labels), bool)}
    groups |= {("groups", name): members for name, members in _by_body_part(scores.body_parts).items()}
    groups |= {("regions", name): members for name, members in scores.by_region(regions).items()}
    known = [name for name in OPERATING_POINTS if name in config.operating_points]  # a config sorts its own by name
    report: dict[str, Any] = {
        name: {"threshold": config.operating_points[name], "chosen": OPERATING_POINTS.get(name, "set in the config")}
        for name in dict.fromkeys([*known, *config.operating_points])
    }
    for (kind, name), members in groups.items():
        measured = measure_operating_points(
            scores.labels[members], scores.probabilities[members], scores.patients[members], config.operating_points,
            prevalence, n_resamples=N_RESAMPLES,
        )  # fmt: skip
        for point, row in measured.items():
            del row["threshold"]
            report[point].setdefault(kind, {})[name] = row
    return report


def _body_part_accuracy(predictions: SplitPredictions) -> float | None:
    """Share of views whose body part is recognised; None without that head, or if no body part is known."""
    known = predictions.body_parts != UNKNOWN_PART
    if predictions.found_parts is None or not known.any():
        return None
    return float(np.mean(predictions.found_parts[known] == predictions.body_parts[known]))


def _measure_by_view(
    cache: PredictionCache, scores: StudyScores, counterfactuals: int, ood_folders: Mapping[str, str | Path]
) -> dict[str, Any]:
    """Runs the measurements that need a `StudyPredictor`."""
    predictor = StudyPredictor.from_pretrained(cache.checkpoint, device=cache.accelerator.device)
    rows = cache.rows
    report = measure_saliency(cache, predictor, phantoms=counterfactuals > 0)
    if predictor.ood_detector is not None:
        settings: dict[str, Any] = {
            "detector": digest_files([cache.checkpoint / OOD_FILE]),
            "folders": {name: list_images(Path(folder)) for name, folder in ood_folders.items()},
            "images": ood_detection.N_IMAGES,
        }
        measure = partial(measure_ood_detection, predictor, rows, ood_folders, n_images=ood_detection.N_IMAGES)
        report["ood_detection"] = cache.measure_once("ood_detection", settings, measure)
    index = cache.checkpoint / FOLDER
    if index.is_dir():
        own = dict(zip(scores.study_ids, scores.probabilities.tolist(), strict=True))
        measure = partial(measure_retrieval, predictor, rows, own)
        report["retrieval"] = cache.measure_once("retrieval", {"build": read_record(index).build}, measure)
    options: dict[str, Any] = {"counterfactuals": counterfactuals, "n_studies": masking.N_STUDIES}
    audited = None if counterfactuals else rows
    report["shortcuts"] = cache.measure_once(
        "shortcuts", options, lambda: audit_shortcuts(predictor, audited, **options).record
    )
    return report
