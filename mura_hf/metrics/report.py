"""`EvaluationReport`: metrics, intervals, confusion matrices and curves of one set of predictions."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .classification import check_predictions, classification_metrics, confusion_matrix, measure_curves
from .intervals import confidence_intervals

OVERALL = "overall"


@dataclass(frozen=True)
class GroupReport:
    """Metrics of a group of rows."""

    figures: dict[str, float | int | None]  # from `classification_metrics`
    intervals: dict[str, tuple[float, float]]  # from `confidence_intervals`
    confusion: list[list[int]]  # from `confusion_matrix`
    n_patients: int

    @classmethod
    def measure(
        cls,
        labels: Sequence[int] | np.ndarray,
        probabilities: Sequence[float] | np.ndarray,
        patients: Sequence[Hashable] | np.ndarray,
        *,
        threshold: float = 0.5,
    ) -> "GroupReport":
        """Measures one group; the arguments are those of `EvaluationReport.measure`."""
        return cls(
            classification_metrics(labels, probabilities, threshold),
            confidence_intervals(labels, probabilities, patients, threshold),
            confusion_matrix(labels, probabilities, threshold),
            len(set(patients)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return vars(self).copy()


@dataclass(frozen=True)
class EvaluationReport:
    """Metrics of images or of studies, overall and by group."""

    groups: dict[str, GroupReport]  # "overall" first, then the groups that have rows
    curves: dict[str, Any]  # of all rows, from `measure_curves`

    @classmethod
    def measure(
        cls,
        labels: Sequence[int] | np.ndarray,
        probabilities: Sequence[float] | np.ndarray,
        patients: Sequence[Hashable] | np.ndarray,
        *,
        groups: Mapping[str, np.ndarray] | None = None,
        threshold: float = 0.5,
    ) -> "EvaluationReport":
        """Measures predictions.

        Args:
            labels: `[n]`, 0 normal and 1 abnormal.
            probabilities: `[n]`, P(abnormal) in [0, 1].
            patients: `[n]`, the patient of each row, for the intervals.
            groups: Name -> bool `[n]`, the rows of a group, such as a body part.
            threshold: A row is called abnormal strictly above it.

        Raises:
            ValueError: If lengths differ, there are no rows, or a value is not a probability.
        """
        truth, values = check_predictions(labels, probabilities)
        patients = np.asarray(patients)
        masks = {OVERALL: np.ones(len(truth), bool), **(groups or {})}
        measured = {
            name: GroupReport.measure(truth[rows], values[rows], patients[rows], threshold=threshold)
            for name, rows in masks.items()
            if np.any(rows) or name == OVERALL
        }
        return cls(measured, measure_curves(truth, values))

    def to_dict(self) -> dict[str, Any]:
        """Returns the groups as plain values for JSON, without the curves."""
        return {name: group.to_dict() for name, group in self.groups.items()}
