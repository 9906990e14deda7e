"""A checkpoint against a split."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoConfig

from ..data import UNKNOWN_PART
from ..errors import DatasetError
from ..evaluation import HOW_CHOSEN, measure_operating_points, measure_reliability, plot_evaluation
from ..files import replace_file
from ..inference import StudyPredictor
from ..models import MuraBaseConfig
from ..models.weights_mura import digest_files
from ..retrieval import FOLDER, IN_DISTRIBUTION_FILE, read_record
from ..training import SplitPredictions
from .baselines import measure_baselines
from .calibration import CALIBRATION, change_temperature, probability_errors
from .golden import make_golden
from .heatmaps import look_at_heatmaps
from .kept_answers import KeptAnswers
from .levels import N_RESAMPLES, Answers, measure_findings, measure_levels, measure_regions
from .masking import N_STUDIES
from .published_beside import published_beside
from .refusal import describe_pictures, measure_refusal
from .retrieval_quality import measure_retrieval
from .shortcuts import audit_shortcuts

PREVALENCE = 0.1
"""Share of abnormal studies for which predictive values are given where none is asked for."""


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
    twins: int = 0,
    foreign: Mapping[str, str | Path] | None = None,
    cpu: bool = False,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Measures a checkpoint on a split; writes `evaluation.json`, plots and its golden check beside its weights.

    What the checkpoint says is kept (see `KeptAnswers`), so that a second look costs no forward pass.

    Args:
        folder: The checkpoint.
        rows: The split, as `load_mura` gives it.
        split: Its name.
        train: What baselines take the shares of abnormal studies from; they are left out where None.
        data: What the rows are, as `load_splits` says it; None where they are like those of training.
        threshold: Abnormal is called strictly above it; the checkpoint's own, as `StudyPredictor` has it, where None.
        prevalence: Share of abnormal studies for which predictive values are given, in (0, 1).
        batch_size: Views a step.
        twins: Phantom patients to render with and without a finding, a marker and the like, in the audit of shortcuts;
            where 0, the audit paints markers and corners of the split's own films over.
        foreign: Name -> folder of pictures that the checkpoint should refuse to answer for, beside those that are made
            here; see `measure_refusal`.
        cpu: Whether to stay on the CPU.
        cache_dir: As in `KeptAnswers`.

    Returns:
        What was written. `image` and `study`, see `measure_levels`: figures with 95 % intervals from a bootstrap over
        patients, and confusion matrices, `overall` and by body part. Studies' probabilities are calibrated as the
        checkpoint's config says. `curves` of the studies; `calibration_effect`: how wrong their probabilities were
        before calibration and after; `operating_points`: what the config's thresholds achieve here, overall and by
        part (`groups`) and by region (`regions`), with predictive values at `prevalence`; `baselines`; `published`:
        what studies printed for the same level and split; `explanations` and further figures of heatmaps: see
        `look_at_heatmaps`; `refusal`, where the checkpoint can tell what is strange to it: see `measure_refusal`;
        `retrieval`, where it has an index: see `measure_retrieval`; `shortcuts`: see `audit_shortcuts`. Where the rows
        tell regions: `region`; where they know their findings: `finding`.

    Raises:
        DatasetError: If the split is empty.
        ValueError: If the threshold lies outside [0, 1], or the prevalence outside (0, 1).
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}: it must lie in [0, 1]")
    if not len(rows):
        raise DatasetError(f"the split {split} is empty; choose other body parts or another split")
    folder, accelerator = Path(folder), Accelerator(cpu=cpu)
    answers = KeptAnswers(folder, rows, accelerator, batch_size=batch_size, cache_dir=cache_dir)
    config = AutoConfig.from_pretrained(folder)
    found = answers.predict(progress=f"Evaluating {split}")
    point = config.default_operating_point
    if threshold is None:
        threshold, how = config.operating_points[point], HOW_CHOSEN.get(point, f"operating point {point}")
    else:
        how = "given to the evaluation"
    calibration = {name.removeprefix("study_"): getattr(config, name) for name in CALIBRATION[1:]}
    levels = measure_levels(found, threshold, **calibration)
    studies = Answers(found, **calibration)
    report = {
        "split": split,
        **({"data": data} if data else {}),
        "threshold": threshold,
        "threshold_chosen": how,
        "n_resamples": N_RESAMPLES,
        "trained_on_phantoms": config.trained_on_phantoms,
        "weights_sha256": answers.weights,
        "calibration": {name: getattr(config, name) for name in CALIBRATION},
        **{level: measured.to_dict() for level, measured in levels.items()},
        "curves": levels["study"].curves,
        "calibration_effect": _effect(answers, found, studies, config),
        "prevalence": prevalence,
        "operating_points": _operating_points(studies, config, prevalence, _of_studies(rows, "region")),
        "published": published_beside(data, split, levels),
        "body_part_accuracy": _part_accuracy(found),
    }
    if train is not None and len(train):
        report["baselines"] = measure_baselines(train, rows)
    for name, measure in (("region", measure_regions), ("finding", measure_findings)):
        measured = measure(studies, _of_studies(rows, name), threshold)
        if measured:
            report[name] = measured
    if accelerator.is_main_process:
        report |= _look_view_by_view(answers, studies, twins, foreign or {})
        replace_file(folder / "evaluation.json", (json.dumps(report, indent=2) + "\n").encode())
        plot_evaluation(report, folder)
        make_golden(folder)
    return report


def _of_studies(rows: Dataset, column: str) -> dict[str, str]:
    """Study id -> its word in a column, of those that have one; empty where the rows lack the column."""
    if column not in rows.column_names:
        return {}
    return {study: word for study, word in zip(rows["study_id"], rows[column], strict=True) if word}


def _effect(answers: KeptAnswers, found: SplitPredictions, studies: Answers, config: MuraBaseConfig) -> dict[str, Any]:
    """How wrong the studies' probabilities are without calibration, `before`, and with it, `after`.

    Before is None where there is no calibration.
    """
    report: dict[str, Any] = {"before": None}
    if (config.temperature, config.study_slope, config.study_intercept) != (1, 1, 0):
        raw = Answers(change_temperature(answers, found, 1.0, now=config.temperature))
        report["before"] = _wrong(raw.labels, raw.probabilities)
    return {**report, "after": _wrong(studies.labels, studies.probabilities)}


def _wrong(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    return {**probability_errors(labels, probabilities), "reliability": measure_reliability(labels, probabilities)}


def _operating_points(
    studies: Answers, config: MuraBaseConfig, prevalence: float, regions: dict[str, str]
) -> dict[str, Any]:
    """Name -> `threshold`, `chosen` (how), and what it achieves: `groups`, overall and by body part, and `regions`."""
    assert config.operating_points is not None
    groups = {("groups", "overall"): np.ones(len(studies.labels), bool)}
    groups |= {("groups", name): rows for name, rows in studies.of_parts().items()}
    groups |= {("regions", name): rows for name, rows in studies.of_regions(regions).items()}
    measured = {
        name: measure_operating_points(
            studies.labels[rows], studies.probabilities[rows], studies.patients[rows], config.operating_points,
            prevalence, n_resamples=N_RESAMPLES,
        )
        for name, rows in groups.items()
    }  # fmt: skip
    report: dict[str, Any] = {}
    known = [name for name in HOW_CHOSEN if name in config.operating_points]  # a config sorts its own by name
    for point in dict.fromkeys([*known, *config.operating_points]):
        threshold = config.operating_points[point]
        report[point] = {"threshold": threshold, "chosen": HOW_CHOSEN.get(point, "as the config has it")}
        for (kind, name), found in measured.items():
            report[point].setdefault(kind, {})[name] = {
                key: value for key, value in found[point].items() if key != "threshold"
            }
    return report


def _part_accuracy(found: SplitPredictions) -> float | None:
    """Share of the views whose body part is found; None without that head, or where no part is known."""
    known = found.body_parts != UNKNOWN_PART
    if found.found_parts is None or not known.any():
        return None
    return float(np.mean(found.found_parts[known] == found.body_parts[known]))


def _look_view_by_view(
    answers: KeptAnswers, studies: Answers, twins: int, foreign: Mapping[str, str | Path]
) -> dict[str, Any]:
    """What is measured view by view, through the predictor."""
    predictor = StudyPredictor.from_pretrained(answers.checkpoint, device=answers.accelerator.device)
    rows = answers.rows
    report = look_at_heatmaps(answers, predictor, phantoms=twins > 0)
    if predictor.distribution is not None:
        settings = {
            "learned": digest_files([answers.checkpoint / IN_DISTRIBUTION_FILE]),
            "foreign": {name: describe_pictures(Path(place)) for name, place in foreign.items()},
        }
        report["refusal"] = answers.record("refusal", settings, lambda: measure_refusal(predictor, rows, foreign))
    index = answers.checkpoint / FOLDER
    if index.is_dir():
        own = dict(zip(studies.study_ids, studies.probabilities.tolist(), strict=True))
        report["retrieval"] = answers.record(
            "retrieval", {"build": read_record(index).build}, lambda: measure_retrieval(predictor, rows, own)
        )
    report["shortcuts"] = answers.record(
        "shortcuts",
        {"patients": twins, "studies": N_STUDIES},
        lambda: audit_shortcuts(predictor, None if twins else rows, twins=twins).record,
    )
    return report
