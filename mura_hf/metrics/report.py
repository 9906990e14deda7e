"""`EvaluationReport`: metrics, intervals, confusion matrices and curves of one set of predictions, and their plots."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .classification import (
    Groups,
    Numbers,
    check_predictions,
    classification_metrics,
    confusion_matrix,
    measure_curves,
)
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
        cls, labels: Numbers, probabilities: Numbers, patients: Groups, *, threshold: float = 0.5
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
        labels: Numbers,
        probabilities: Numbers,
        patients: Groups,
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


PLOTS = ("roc.png", "precision_recall.png", "reliability.png", "body_parts.png")
"""Names of the files that `plot_evaluation` writes."""

_BLUE, _ORANGE, _GRAY = "#1f4e79", "#c55a11", "0.55"
_MARKERS = {"paper": "o", "youden": "D", "sensitivity_85": "v", "sensitivity_95": "^", "specificity_95": "s"}


def plot_evaluation(report: dict[str, Any], folder: str | Path) -> list[Path]:
    """Draws the curves of the studies, their calibration, and the metrics of each body part.

    Args:
        report: Content of `evaluation.json`.
        folder: Folder for the files.

    Returns:
        The files that were written, of `PLOTS`. The two curves are left out if only one class is present.

    Raises:
        KeyError: If the report lacks a value.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawings = dict(zip(PLOTS, (_roc, _precision_recall, _reliability, _body_parts), strict=True))
    written = []
    for name in PLOTS[2:] if report["curves"]["roc"] is None else PLOTS:
        size = (8.0, 1.6 + 0.36 * len(_groups(report))) if name == "body_parts.png" else (5.0, 5.0)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        drawings[name](figure, report)
        written.append(Path(folder) / name)
        figure.savefig(written[-1], dpi=100, metadata={"Software": None})  # the same bytes every time
    return written


def _roc(figure: Any, report: dict[str, Any]) -> None:
    axis, curve = figure.subplots(), report["curves"]["roc"]
    axis.plot([0, 1], [0, 1], color=_GRAY, linewidth=1, linestyle="--", label="chance")
    axis.plot(curve["false_positive_rate"], curve["sensitivity"], color=_BLUE, label=_label("AUROC", report, "auroc"))
    for name, point in report["operating_points"].items():
        figures = point["groups"]["overall"]["figures"]
        axis.plot(
            1 - figures["specificity"], figures["sensitivity"], marker=_MARKERS.get(name, "P"), color=_ORANGE,
            linestyle="none", label=name.replace("_", " "),
        )  # fmt: skip
    axis.set(xlabel="1 - specificity", ylabel="Sensitivity", title=_title(report))
    _square(axis, "lower right")


def _precision_recall(figure: Any, report: dict[str, Any]) -> None:
    axis, curve = figure.subplots(), report["curves"]["precision_recall"]
    figures = report["study"]["overall"]["figures"]
    share = figures["n_abnormal"] / figures["n"]
    axis.axhline(share, color=_GRAY, linewidth=1, linestyle="--", label=f"chance: {share:.2f} are abnormal")
    label = _label("Average precision", report, "auprc")
    axis.step(curve["sensitivity"], curve["precision"], where="pre", color=_BLUE, label=label)
    axis.set(xlabel="Sensitivity (recall)", ylabel="Precision", title=_title(report))
    _square(axis, "lower left")


def _reliability(figure: Any, report: dict[str, Any]) -> None:
    axis, effect = figure.subplots(), report["calibration_effect"]
    axis.plot([0, 1], [0, 1], color=_GRAY, linewidth=1, linestyle="--", label="perfect")
    for when, color in (("before", _GRAY), ("after", _BLUE)):
        if effect[when] is None:
            continue
        bins = effect[when]["reliability"]
        means, shares = [row["mean"] for row in bins], [row["share"] for row in bins]
        label = f"{when} calibration, ECE {effect[when]['ece']:.3f}"
        axis.plot(means, shares, color=color, linewidth=1, label=label)
        # The area of a dot grows with its number of studies, because bins with few studies are noisy.
        axis.scatter(means, shares, color=color, s=[6 + min(row["n"], 60) for row in bins])
    bins = effect["after"]["reliability"]
    largest = max(row["n"] for row in bins)
    axis.bar(
        [row["mean"] for row in bins], [0.15 * row["n"] / largest for row in bins], width=0.04, color=_BLUE,
        alpha=0.25, label=f"studies in a bin (at most {largest})",
    )  # fmt: skip
    axis.set(xlabel="Mean P(abnormal) of the bin", ylabel="Share of abnormal studies", title=_title(report))
    _square(axis, "upper left")


def _body_parts(figure: Any, report: dict[str, Any]) -> None:
    groups = list(_groups(report).items())[::-1]
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name, title in zip(axes, ("auroc", "kappa"), ("AUROC", "Cohen's kappa"), strict=True):
        for line, (_, row) in enumerate(groups):
            value, interval = row["figures"][name], row["intervals"].get(name)
            if interval is not None:
                axis.plot(interval, [line, line], color=_BLUE, linewidth=2)
            if value is not None:  # hollow: too few for an interval
                axis.plot(value, line, marker="o", color=_BLUE, fillstyle="none" if interval is None else "full")
        axis.set(xlabel=f"{title}, 95 % interval", ylim=(-0.6, len(groups) - 0.4))
        axis.grid(axis="x", alpha=0.3)
    ticks = [f"{name} ({row['figures']['n_abnormal']} of {row['figures']['n']})" for name, row in groups]
    axes[0].set_yticks(range(len(groups)), ticks)
    figure.suptitle(f"{_title(report)}: abnormal of all", fontsize=11)


def _groups(report: dict[str, Any]) -> dict[str, Any]:
    """Metrics of studies by body part, and by region if the report has regions."""
    return {**report["study"], **{f"shows {name}": row for name, row in report.get("region", {}).items()}}


def _label(words: str, report: dict[str, Any], name: str) -> str:
    row = report["study"]["overall"]
    interval = " ({:.3f} to {:.3f})".format(*row["intervals"][name]) if name in row["intervals"] else ""
    return f"{words} {row['figures'][name]:.3f}{interval}"


def _title(report: dict[str, Any]) -> str:
    return f"{report['study']['overall']['figures']['n']} studies of {report['split']}"


def _square(axis: Any, legend: str) -> None:
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axis.grid(alpha=0.3)
    axis.legend(loc=legend, fontsize=8, framealpha=0.9)
