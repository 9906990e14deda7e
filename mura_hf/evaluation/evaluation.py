"""Evaluates a checkpoint on a split, and compares it with another one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoConfig, AutoModelForImageClassification

from ..common import read_training, replace_file
from ..errors import DatasetError
from ..inference import StudyPredictor
from ..metrics import (
    FORMER_RULES,
    OPERATING_POINTS,
    EvaluationReport,
    GroupReport,
    calibrate_studies,
    classification_metrics,
    confidence_intervals,
    measure_bands,
    measure_calibration,
    measure_operating_points,
    measure_reliability,
    paired_comparison,
    plot_evaluation,
    too_few_studies,
    view_count_baseline,
)
from ..models import BODY_PARTS, MuraBaseConfig, MuraImageProcessor, write_golden
from ..models.golden_mura import digest_files
from ..phantoms import render_phantom
from ..retrieval import FOLDER, OOD_FILE, read_record
from ..training import SplitPredictions
from . import ood_detection
from .calibration import CALIBRATION, change_temperature, probability_errors
from .ood_detection import list_images, measure_ood_detection
from .prediction_cache import PredictionCache, digest_rows
from .region_head import measure_region_head
from .retrieval import measure_retrieval
from .saliency import measure_saliency
from .shortcuts import LIMIT, N_STUDIES, measure_masking
from .splits import region_members, rows_out_of_scope, rows_to_measure
from .summary import with_old_names

PREVALENCE = 0.1
"""Default share of abnormal studies for the predictive values."""

_GOLDEN_SEED, _GOLDEN_PART = 820_000, "wrist"


def evaluate_checkpoint(
    folder: str | Path,
    rows: Dataset,
    split: str,
    *,
    train: Dataset | None = None,
    data: dict[str, Any] | None = None,
    prevalence: float = PREVALENCE,
    batch_size: int = 32,
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
        prevalence: Share of abnormal studies for the predictive values, in (0, 1).
        batch_size: Number of views per step.
        ood_folders: Name -> folder of images that should be flagged as out of distribution, besides generated ones.
        cpu: Whether to stay on the CPU.
        cache_dir: Folder of the cache, see `PredictionCache`.

    Returns:
        The content of `evaluation.json`. The README of this folder lists its fields and their methods.

    Raises:
        DatasetError: If the split is empty.
        ValueError: If the prevalence lies outside (0, 1).
    """
    if not len(rows):
        raise DatasetError(f"the split {split} is empty; choose other body parts or another split")
    folder, accelerator = Path(folder), Accelerator(cpu=cpu)
    all_rows, rows = rows, rows_to_measure(rows)
    options: dict[str, Any] = {"batch_size": batch_size, "cache_dir": cache_dir}
    cache = PredictionCache(folder, rows, accelerator, **options)
    config = AutoConfig.from_pretrained(folder)
    predictions = cache.predict(progress=f"Evaluating {split}")
    rules, (point, threshold) = _rules(folder), config.find_threshold()
    calibration = {"slope": config.study_slope, "intercept": config.study_intercept}
    levels = measure_levels(predictions, threshold, **calibration)
    scores = score_levels(predictions, **calibration)["study"]
    all_scores, parts = scores, [(rows, predictions)]
    if len(rows) < len(all_rows):
        outside = PredictionCache(folder, rows_out_of_scope(all_rows), accelerator, **options)
        others = outside.predict(progress="Evaluating other regions")
        all_scores = scores.join(score_levels(others, **calibration)["study"])
        parts.append((outside.rows, others))
    regions = region_members(_values_of_studies(all_rows, "region", all_scores))
    regions = {name: members for name, members in regions.items() if members.any()}
    kinds = np.asarray(_values_of_studies(rows, "finding", scores))
    findings = {str(kind): (kinds == kind) | (scores.labels == 0) for kind in sorted(set(kinds) - {""})}
    report = {
        "split": split,
        **({"data": data} if data else {}),
        "threshold": threshold,
        "threshold_chosen": rules.get(point, f"operating point {point}"),
        "trained_on_phantoms": config.trained_on_phantoms,
        "weights_sha256": cache.weights_sha256,
        "calibration": {name: getattr(config, name) for name in CALIBRATION},
        **{level: measured.to_dict() for level, measured in levels.items()},
        "too_few": too_few_studies(scores.labels, scores.patients, "comparison"),
        "curves": levels["study"].curves,
        "calibration_effect": _calibration_effect(cache, predictions, scores, config),
        "prevalence": prevalence,
        "operating_points": _operating_points(scores, all_scores, config, rules, prevalence, regions),
        "bands": _bands(scores, config),
        "body_part_accuracy": predictions.body_part_accuracy,
        "region_head": measure_region_head(getattr(config, "regions", None), parts),
    }
    if train is not None and len(train):
        report["baselines"] = measure_baselines(rows_to_measure(train), rows)
    if len(all_scores.labels) > len(scores.labels):
        left_out = np.arange(len(all_scores.labels)) >= len(scores.labels)
        report["out_of_scope"] = all_scores.measure(left_out, threshold)
    for name, groups, measured in (("region", regions, all_scores), ("finding", findings, scores)):
        if groups:
            report[name] = {group: measured.measure(members, threshold) for group, members in groups.items()}
    if accelerator.is_main_process:
        report |= _measure_by_view(cache, all_rows, scores, ood_folders or {})
        report = with_old_names(report)
        replace_file(folder / "evaluation.json", (json.dumps(report, indent=2) + "\n").encode())
        plot_evaluation(report, folder)
        write_golden_check(folder)
    return report


@dataclass(frozen=True, eq=False)
class Scores:
    """Calibrated probabilities of images or studies; all arrays are `[n]`."""

    study_ids: list[str]
    probabilities: np.ndarray  # float64, calibrated P(abnormal)
    labels: np.ndarray  # 0 normal and 1 abnormal
    patients: np.ndarray
    body_parts: np.ndarray  # indices

    def join(self, other: "Scores") -> "Scores":
        """Returns the rows of both."""
        names = ("probabilities", "labels", "patients", "body_parts")
        arrays = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        return Scores([*self.study_ids, *other.study_ids], **arrays)

    def by_body_part(self) -> dict[str, np.ndarray]:
        """Returns body part -> bool `[n]`; parts that do not occur are left out."""
        members = {part: self.body_parts == index for index, part in enumerate(BODY_PARTS)}
        return {part: inside for part, inside in members.items() if inside.any()}

    def measure(self, members: np.ndarray, threshold: float) -> dict[str, Any]:
        """Returns the metrics of some rows, bool `[n]`, see `GroupReport`."""
        return GroupReport.measure(*self.select(members), threshold=threshold).to_dict()

    def select(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns labels, probabilities and patients of some rows, bool `[n]`."""
        return self.labels[members], self.probabilities[members], self.patients[members]


def score_levels(predictions: SplitPredictions, slope: float = 1.0, intercept: float = 0.0) -> dict[str, Scores]:
    """Calibrates predictions (see `calibrate_studies`): `image`, each view as a study of its own, and `study`."""
    studies = predictions.by_study()
    pooled, labels, patients, parts = (np.asarray(column) for column in zip(*studies.values(), strict=True))
    single = predictions.single_view_probabilities
    single = calibrate_studies(predictions.probabilities if single is None else single, slope, intercept)
    owners = np.asarray(predictions.patient_ids)
    return {
        "image": Scores(predictions.study_ids, single, predictions.labels, owners, predictions.body_parts),
        "study": Scores(list(studies), calibrate_studies(pooled, slope, intercept), labels, patients, parts),
    }


def measure_levels(
    predictions: SplitPredictions, threshold: float = 0.5, *, slope: float = 1.0, intercept: float = 0.0
) -> dict[str, EvaluationReport]:
    """Measures the `image` and `study` scores of `score_levels`, overall and by body part."""
    return {
        level: EvaluationReport.measure(
            scores.labels, scores.probabilities, scores.patients, groups=scores.by_body_part(), threshold=threshold
        )
        for level, scores in score_levels(predictions, slope, intercept).items()
    }  # fmt: skip


def measure_baselines(train: Dataset, held_out: Dataset, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Measures baselines, fitted to `train`, on the studies of a split.

    Returns:
        `random` (uniform probabilities), `constant` (the share of abnormal studies in train) and `view_count`, each
        with `figures` and 95 % `intervals` over patients.
    """
    (train_views, train_labels, _), (views, labels, patients) = _count_views(train), _count_views(held_out)
    baselines = {
        "random": np.random.default_rng(seed).random(len(labels)),
        "constant": np.full(len(labels), float(train_labels.mean())),
        "view_count": view_count_baseline(train_views, train_labels, views),
    }
    figures = {name: classification_metrics(labels, values) for name, values in baselines.items()}
    intervals = {name: confidence_intervals(labels, values, patients) for name, values in baselines.items()}
    return {name: {"figures": figures[name], "intervals": intervals[name]} for name in baselines}


def _count_views(rows: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of views, label and patient of each study, in first-seen order."""
    studies = rows.select_columns(["study_id", "label", "patient_id"]).to_pandas().groupby("study_id", sort=False)
    first = studies.first()
    return studies.size().to_numpy(), first["label"].to_numpy(), first["patient_id"].to_numpy()


def _values_of_studies(rows: Dataset, column: str, scores: Scores) -> list[str]:
    """Value of each study in a column; empty if unknown."""
    values = rows[column] if column in rows.column_names else [None] * len(rows)
    known = {study: value for study, value in zip(rows["study_id"], values, strict=True) if value}
    return [known.get(study, "") for study in scores.study_ids]


def _calibration_effect(
    cache: PredictionCache, predictions: SplitPredictions, scores: Scores, config: MuraBaseConfig
) -> dict[str, Any]:
    """Errors of the studies' probabilities `before` calibration (None if there is none) and `after`."""
    effect: dict[str, Any] = {"before": None}
    states = {"after": scores.probabilities}
    if (config.temperature, config.study_slope, config.study_intercept) != (1, 1, 0):
        plain = change_temperature(cache, predictions, 1.0, current=config.temperature)
        states["before"] = plain.study_probabilities()[0]
    for when, values in states.items():
        reliability = measure_reliability(scores.labels, values)
        effect[when] = {
            **probability_errors(scores.labels, values),
            **measure_calibration(scores.labels, values, scores.patients),
            "reliability": reliability,
        }
    return effect


def _rules(folder: Path) -> dict[str, str]:
    """How the operating points of a checkpoint were chosen."""
    calibration = read_training(folder).get("calibration", {})
    if "kept_from" in calibration:
        kept = dict.fromkeys(OPERATING_POINTS, f"kept from {calibration['kept_from']}")
        return {**kept, "paper": OPERATING_POINTS["paper"]}
    former = {} if "confidence" in calibration or not calibration else FORMER_RULES
    films = " if each film shows another patient" * (calibration.get("guarantees_count") == "films")
    return {name: rule + films * ("confidence" in rule) for name, rule in {**OPERATING_POINTS, **former}.items()}


def _operating_points(
    scores: Scores,
    all_scores: Scores,
    config: MuraBaseConfig,
    rules: Mapping[str, str],
    prevalence: float,
    regions: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Name -> `threshold`, how it was `chosen`, and figures by `groups` (body parts) and `regions` of `all_scores`."""
    assert config.operating_points is not None
    everything = {"overall": np.ones(len(scores.labels), bool)}
    known = [name for name in OPERATING_POINTS if name in config.operating_points]  # a config sorts its own by name
    report: dict[str, Any] = {
        name: {"threshold": config.operating_points[name], "chosen": rules.get(name, "set in the config")}
        for name in dict.fromkeys([*known, *config.operating_points])
    }
    for kind, groups, rows in (
        ("groups", everything | scores.by_body_part(), scores),
        ("regions", regions, all_scores),
    ):
        for name, members in groups.items():
            measured = measure_operating_points(*rows.select(members), config.operating_points, prevalence)
            for point, row in measured.items():
                del row["threshold"]
                report[point].setdefault(kind, {})[name] = row
    return report


def _bands(scores: Scores, config: MuraBaseConfig) -> dict[str, Any]:
    """Cut points at the default threshold, and what the bands achieve by `groups`: all studies and body parts."""
    low, high = config.find_band_limits(config.find_threshold()[1])
    groups = {"overall": np.ones(len(scores.labels), bool)} | scores.by_body_part()
    return {
        "limits": {"low": low, "suspected": high},
        "fitted": config.bands is not None,
        "groups": {name: measure_bands(*scores.select(members), (low, high)) for name, members in groups.items()},
    }


def _measure_by_view(
    cache: PredictionCache,
    all_rows: Dataset,
    scores: Scores,
    ood_folders: Mapping[str, str | Path],
) -> dict[str, Any]:
    """Runs the measurements that need a `StudyPredictor`."""
    predictor = StudyPredictor.from_pretrained(cache.checkpoint, device=cache.accelerator.device, runtime="torch")
    rows, index = cache.rows, cache.checkpoint / FOLDER
    report = measure_saliency(cache, predictor)
    if predictor.ood_detector is not None:
        n_images = ood_detection.N_IMAGES
        settings: dict[str, Any] = {
            "detector": digest_files([cache.checkpoint / OOD_FILE]),
            "folders": {name: list_images(Path(folder)) for name, folder in ood_folders.items()},
            "images": n_images,
            "rows": digest_rows(all_rows),
        }
        report["ood_detection"] = cache.measure_once(
            "ood_detection",
            settings,
            lambda: measure_ood_detection(predictor, all_rows, ood_folders, n_images=n_images),
        )
    if index.is_dir():
        own = dict(zip(scores.study_ids, scores.probabilities.tolist(), strict=True))
        report["retrieval"] = cache.measure_once(
            "retrieval", {"build": read_record(index).build}, lambda: measure_retrieval(predictor, rows, own)
        )
    options = {"n_studies": N_STUDIES}
    report["shortcuts"] = cache.measure_once(
        "shortcuts", options, lambda: {"limit": LIMIT, "masking": measure_masking(predictor, rows, **options).report()}
    )
    return report


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

    Both are measured on the studies in scope that are in the splits of both (see `paired_comparison`), each at its own
    threshold.

    Args:
        folder: The checkpoint, already evaluated on `rows`.
        other: The checkpoint to compare it with.
        rows: The split.
        other_rows: The split as the other checkpoint's training cut it.
        batch_size, cpu, cache_dir: See `evaluate_checkpoint`.

    Returns:
        The new content of `evaluation.json`. Its `comparison` holds `checkpoint` (the name of the other), `n` studies
        that are compared, `is_start`
        (whether training started from it), `weights_sha256`, the other's `auroc` of studies, `known` (number of
        patients of `valid` that a start was trained on), and for `image` and `study` the difference of each metric.

    Raises:
        DatasetError: If the splits have no study in common, or if `evaluation.json` is about other weights or studies.
    """
    n_studies, others = len(set(rows_to_measure(rows)["study_id"])), set(other_rows["study_id"])
    common = [number for number, study in enumerate(rows["study_id"]) if study in others]
    if not common:
        raise DatasetError(
            f"{folder} and {other} were cut in different ways, and no study is new to both; compare checkpoints of "
            "the same data and cut"
        )
    rows = rows_to_measure(rows if len(common) == len(rows) else rows.select(common))
    accelerator, file = Accelerator(cpu=cpu), Path(folder) / "evaluation.json"
    thresholds, levels, weights = [], [], []
    for place in (folder, other):
        cache = PredictionCache(place, rows, accelerator, batch_size=batch_size, cache_dir=cache_dir)
        config = AutoConfig.from_pretrained(place)
        predictions = cache.predict(progress=f"Comparing {Path(place).name}")
        levels.append(score_levels(predictions, config.study_slope, config.study_intercept))
        thresholds.append(config.find_threshold()[1])
        weights.append(cache.weights_sha256)
    report = json.loads(file.read_text())
    if report["weights_sha256"] != weights[0] or n_studies != report["study"]["overall"]["figures"]["n"]:
        raise DatasetError(f"{file} is about other weights or studies; evaluate {folder} on these first")
    theirs = classification_metrics(levels[1]["study"].labels, levels[1]["study"].probabilities)
    training = read_training(folder)
    base = training.get("base") or {}
    is_start = base.get("heads", False) and base.get("sha256") == weights[1]
    report["comparison"] = {
        "checkpoint": base["name"] if is_start else Path(other).resolve().name,
        "n": len(levels[0]["study"].labels),
        "is_start": is_start,
        "weights_sha256": weights[1],
        "auroc": theirs["auroc"],
        "known": training.get("data", {}).get("known_to_base", {}).get("valid", 0),
    }
    for level, ours in levels[0].items():
        pair = ours.probabilities, levels[1][level].probabilities
        report["comparison"][level] = paired_comparison(
            ours.labels, *pair, ours.patients, (thresholds[0], thresholds[1])
        )
    report = with_old_names(report)
    if accelerator.is_main_process:
        replace_file(file, (json.dumps(report, indent=2) + "\n").encode())
    return report


@lru_cache(maxsize=len(BODY_PARTS))
def golden_image(body_part: str = _GOLDEN_PART) -> np.ndarray:
    """Returns the phantom of every golden check, which can be shared with any checkpoint: uint8 `[H, W]`."""
    image = render_phantom(_GOLDEN_SEED, body_part=body_part, finding="displaced_fracture").pixels
    image.setflags(write=False)
    return image


def write_golden_check(folder: str | Path) -> None:
    """Writes a checkpoint's output for one phantom to `golden.safetensors`; repeat it if weights or config change."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    # A model for single body parts may lack the wrist.
    part = next(iter(getattr(model, "members", None) or [_GOLDEN_PART])) if model.NEEDS_PART else _GOLDEN_PART
    processor = MuraImageProcessor.from_pretrained(folder)
    write_golden(folder, model, processor, golden_image(part).copy(), BODY_PARTS.index(part))
