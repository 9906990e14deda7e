"""Figures of images and of studies.

What can be had without looking at a picture.
A checkpoint against a split.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoConfig

from ..common import replace_file
from ..data import UNKNOWN_PART
from ..data.fracatlas import REGION_GROUPS
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
from .calibration import CALIBRATION, change_temperature, probability_errors
from .masking import N_STUDIES
from .ood_detection import describe_pictures, measure_refusal
from .prediction_cache import KeptAnswers, make_golden
from .published import published_beside
from .retrieval import measure_retrieval
from .saliency import look_at_heatmaps
from .shortcuts import audit_shortcuts

N_RESAMPLES = 2000


class Answers:
    """What a checkpoint says of a split's studies, in first-seen order; all arrays `[n]`.

    Args:
        found: Of its views.
        slope: Of the studies' calibration, see `calibrate_studies`.
        intercept: Likewise.

    Attributes:
        study_ids: list.
        probabilities: float64, P(abnormal), calibrated.
        labels: 0 normal and 1 abnormal.
        patients: The patient of each.
        parts: Body part as an index.
    """

    def __init__(self, found: SplitPredictions, slope: float = 1.0, intercept: float = 0.0) -> None:
        studies = found.by_study()
        means, self.labels, self.patients, self.parts = (
            np.asarray(column) for column in zip(*studies.values(), strict=True)
        )
        self.study_ids = list(studies)
        self.probabilities = calibrate_studies(means, slope, intercept)

    def of_parts(self) -> dict[str, np.ndarray]:
        """Body part -> bool `[n]`, which studies are of it; parts without any are left out."""
        return _of_parts(self.parts)

    def of_regions(self, regions: dict[str, str]) -> dict[str, np.ndarray]:
        """Name of a group in `REGION_GROUPS` -> bool `[n]`, which studies show a region of it; those without any are
        left out.

        Args:
            regions: Study id -> the regions that it shows, joined by "+".
        """
        shown = [set(regions.get(study, "").split("+")) for study in self.study_ids]
        found = {
            name: np.asarray([bool(words & set(group)) for words in shown]) for name, group in REGION_GROUPS.items()
        }
        return {name: rows for name, rows in found.items() if rows.any()}


def measure_levels(
    found: SplitPredictions, threshold: float = 0.5, *, slope: float = 1.0, intercept: float = 0.0
) -> dict[str, EvaluationReport]:
    """Figures with 95 % intervals from a bootstrap over patients, of images and of studies.

    Args:
        found: What a model says of a split.
        threshold: Abnormal is called strictly above it.
        slope: Of the studies' calibration, see `calibrate_studies`.
        intercept: Likewise.

    Returns:
        `image`, each as a study of it alone would be called, and `study`; overall and by the body parts that are
        there.
    """
    studies = Answers(found, slope, intercept)
    single_view = calibrate_single_views(found, slope, intercept)
    levels: dict[str, tuple[Any, ...]] = {
        "image": (found.labels, single_view, found.patient_ids, _of_parts(found.body_parts)),
        "study": (studies.labels, studies.probabilities, studies.patients, studies.of_parts()),
    }
    return {
        level: EvaluationReport.measure(
            labels, probabilities, patients, groups=parts, threshold=threshold, n_resamples=N_RESAMPLES
        )
        for level, (labels, probabilities, patients, parts) in levels.items()
    }


def calibrate_single_views(found: SplitPredictions, slope: float, intercept: float) -> np.ndarray:
    """Returns the calibrated P(abnormal) of each view as a study of its own, `[n]`."""
    single_view = found.single_view_probabilities
    return calibrate_studies(found.probabilities if single_view is None else single_view, slope, intercept)


def measure_regions(studies: Answers, regions: dict[str, str], threshold: float) -> dict[str, dict[str, Any]]:
    """Figures of the studies that show one of each of `REGION_GROUPS`.

    Args:
        studies: What a model says of them.
        regions: As in `Answers.of_regions`.
        threshold: Abnormal is called strictly above it.
    """
    return {name: _measure(studies, rows, threshold) for name, rows in studies.of_regions(regions).items()}


def measure_findings(studies: Answers, findings: dict[str, str], threshold: float) -> dict[str, dict[str, Any]]:
    """Figures of each kind of abnormal study against all normal ones.

    Args:
        studies: What a model says of them.
        findings: Study id -> kind, of those that have one.
        threshold: Abnormal is called strictly above it.
    """
    kinds = np.asarray([findings.get(study, "") for study in studies.study_ids])
    return {
        str(kind): _measure(studies, (kinds == kind) | (studies.labels == 0), threshold)
        for kind in sorted(set(kinds) - {""})
    }


def _measure(studies: Answers, rows: np.ndarray, threshold: float) -> dict[str, Any]:
    return GroupReport.measure(
        studies.labels[rows],
        studies.probabilities[rows],
        studies.patients[rows],
        threshold=threshold,
        n_resamples=N_RESAMPLES,
    ).to_dict()


def _of_parts(places: np.ndarray) -> dict[str, np.ndarray]:
    return {part: places == index for index, part in enumerate(BODY_PARTS) if (places == index).any()}


def measure_baselines(train: Dataset, held_out: Dataset, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Measures the baselines on the studies of a split.

    Args:
        train: What the share of abnormal studies, alone and by number of views, is taken from.
        held_out: The split to answer for.
        seed: Of the random classifier.

    Returns:
        `random`, `constant` and `view_count`, each with `figures` and `intervals` (95 %, over patients) as
        `evaluate_checkpoint` gives them.
    """
    fitted, asked = _studies(train), _studies(held_out)
    answers = {
        "random": random_baseline(len(asked["labels"]), seed),
        "constant": constant_baseline(len(asked["labels"]), float(fitted["labels"].mean())),
        "view_count": view_count_baseline(fitted["views"], fitted["labels"], asked["views"]),
    }
    return {
        name: {
            "figures": classification_metrics(asked["labels"], values),
            "intervals": bootstrap_confidence_intervals(asked["labels"], values, asked["patients"]),
        }
        for name, values in answers.items()
    }


def _studies(rows: Dataset) -> dict[str, np.ndarray]:
    """Number of views, label and patient of each study, in first-seen order."""
    found: dict[str, list[Any]] = {}
    for study, label, patient in zip(rows["study_id"], rows["label"], rows["patient_id"], strict=True):
        found.setdefault(study, [0, label, patient])[0] += 1
    views, labels, patients = zip(*found.values(), strict=True)
    return {"views": np.asarray(views), "labels": np.asarray(labels), "patients": np.asarray(patients)}


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
        threshold, how = config.operating_points[point], OPERATING_POINTS.get(point, f"operating point {point}")
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
    known = [name for name in OPERATING_POINTS if name in config.operating_points]  # a config sorts its own by name
    for point in dict.fromkeys([*known, *config.operating_points]):
        threshold = config.operating_points[point]
        report[point] = {"threshold": threshold, "chosen": OPERATING_POINTS.get(point, "as the config has it")}
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
    if predictor.ood_detector is not None:
        settings = {
            "learned": digest_files([answers.checkpoint / OOD_FILE]),
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
