"""`EvaluationReport`: all figures of one set of answers."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import bootstrap_confidence_intervals
from .classification import check_answers, classification_metrics, confusion_matrix, measure_curves

OVERALL = "overall"


@dataclass(frozen=True)
class GroupReport:
    """Figures of some rows.

    Attributes:
        figures: As `classification_metrics` gives them.
        intervals: As `bootstrap_confidence_intervals` gives them.
        confusion: As `confusion_matrix` gives it.
    """

    figures: dict[str, float | int | None]
    intervals: dict[str, tuple[float, float]]
    confusion: list[list[int]]

    @classmethod
    def measure(
        cls,
        labels: Sequence[int] | np.ndarray,
        probabilities: Sequence[float] | np.ndarray,
        patients: Sequence[Hashable] | np.ndarray,
        *,
        threshold: float = 0.5,
        n_resamples: int = 2000,
    ) -> "GroupReport":
        """Measures rows, the arguments as for `EvaluationReport.measure`."""
        return cls(
            classification_metrics(labels, probabilities, threshold),
            bootstrap_confidence_intervals(labels, probabilities, patients, threshold, n_resamples),
            confusion_matrix(labels, probabilities, threshold),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return vars(self).copy()


@dataclass(frozen=True)
class EvaluationReport:
    """Figures of one level, images or studies, overall and by group.

    Attributes:
        groups: "overall" first, then the groups that hold any row.
        curves: Of all rows, as `measure_curves` gives them.
    """

    groups: dict[str, GroupReport]
    curves: dict[str, Any]

    @classmethod
    def measure(
        cls,
        labels: Sequence[int] | np.ndarray,
        probabilities: Sequence[float] | np.ndarray,
        patients: Sequence[Hashable] | np.ndarray,
        *,
        groups: Mapping[str, np.ndarray] | None = None,
        threshold: float = 0.5,
        n_resamples: int = 2000,
    ) -> "EvaluationReport":
        """Measures answers.

        Args:
            labels: `[n]`, 0 normal and 1 abnormal.
            probabilities: `[n]`, P(abnormal) in [0, 1].
            patients: `[n]`, over whom the bootstrap goes.
            groups: Name -> bool `[n]`, which rows are of the group, such as of a body part.
            threshold: Abnormal is called strictly above it.
            n_resamples: Number of resamples.

        Raises:
            ValueError: If lengths differ, there are no rows, or a value is no probability.
        """
        truth, values = check_answers(labels, probabilities)
        who = np.asarray(patients)
        chosen = {OVERALL: np.ones(len(truth), bool), **(groups or {})}
        return cls(
            {
                name: GroupReport.measure(
                    truth[rows], values[rows], who[rows], threshold=threshold, n_resamples=n_resamples
                )
                for name, rows in chosen.items()
                if np.any(rows) or name == OVERALL
            },
            measure_curves(truth, values),
        )

    def to_dict(self) -> dict[str, Any]:
        """The groups as plain values, for JSON; curves stand apart."""
        return {name: group.to_dict() for name, group in self.groups.items()}
