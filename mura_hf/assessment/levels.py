"""Figures of images and of studies."""

from typing import Any

import numpy as np

from ..data.fracatlas import REGION_GROUPS
from ..evaluation import EvaluationReport, GroupReport, calibrate_studies
from ..models import BODY_PARTS
from ..training import SplitPredictions

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
    alone = calibrate_alone(found, slope, intercept)
    levels: dict[str, tuple[Any, ...]] = {
        "image": (found.labels, alone, found.patient_ids, _of_parts(found.body_parts)),
        "study": (studies.labels, studies.probabilities, studies.patients, studies.of_parts()),
    }
    return {
        level: EvaluationReport.measure(
            labels, probabilities, patients, groups=parts, threshold=threshold, n_resamples=N_RESAMPLES
        )
        for level, (labels, probabilities, patients, parts) in levels.items()
    }


def calibrate_alone(found: SplitPredictions, slope: float, intercept: float) -> np.ndarray:
    """P(abnormal), calibrated, of a study of each view alone, `[n]`."""
    return calibrate_studies(found.probabilities if found.alone is None else found.alone, slope, intercept)


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
