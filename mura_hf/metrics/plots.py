"""Plots of an evaluation, from its record alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PLOTS = ("roc.png", "precision_recall.png", "reliability.png", "body_parts.png")
"""Names of the files that `plot_evaluation` writes."""

_BLUE, _ORANGE, _GRAY = "#1f4e79", "#c55a11", "0.55"
_MARKS = {"paper": "o", "youden": "D", "sensitivity_95": "^", "specificity_95": "s"}


def plot_evaluation(report: dict[str, Any], folder: str | Path) -> list[Path]:
    """Draws the curves of the studies, how well calibrated they are, and the figures of each body part.

    Args:
        report: Content of `evaluation.json`.
        folder: Where the files go.

    Returns:
        The files written, of `PLOTS`; curves that one class alone does not have are left out.

    Raises:
        KeyError: If the report lacks a value.
    """
    curves = report["curves"]
    drawn: dict[str, Callable[[Any, dict[str, Any]], None]] = {"reliability.png": _reliability}
    if curves["roc"] is not None:
        drawn |= {"roc.png": _roc, "precision_recall.png": _precision_recall}
    sizes = {"body_parts.png": (8.0, 1.6 + 0.36 * len(_groups(report)))}
    written = []
    for name in PLOTS:
        if name != "body_parts.png" and name not in drawn:
            continue
        figure = _figure(sizes.get(name, (5.0, 5.0)))
        if name == "body_parts.png":
            _parts(figure, report)
        else:
            drawn[name](figure.subplots(), report)
        path = Path(folder) / name
        figure.savefig(path, dpi=100, metadata={"Software": None})  # nothing that differs from day to day
        written.append(path)
    return written


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _roc(axis: Any, report: dict[str, Any]) -> None:
    curve, row = report["curves"]["roc"], report["study"]["overall"]
    axis.plot([0, 1], [0, 1], color=_GRAY, linewidth=1, linestyle="--", label="chance")
    axis.plot(curve["false_positive_rate"], curve["sensitivity"], color=_BLUE, label=_told("AUROC", row, "auroc"))
    for name, point in report["operating_points"].items():
        figures = point["groups"]["overall"]["figures"]
        axis.plot(
            1 - figures["specificity"], figures["sensitivity"], marker=_MARKS.get(name, "P"), color=_ORANGE,
            linestyle="none", label=name.replace("_", " "),
        )  # fmt: skip
    axis.set(xlabel="1 - specificity", ylabel="Sensitivity", title=_title(report))
    _square(axis, "lower right")


def _precision_recall(axis: Any, report: dict[str, Any]) -> None:
    curve, row = report["curves"]["precision_recall"], report["study"]["overall"]
    share = row["figures"]["n_abnormal"] / row["figures"]["n"]
    axis.axhline(share, color=_GRAY, linewidth=1, linestyle="--", label=f"chance: {share:.2f} are abnormal")
    axis.step(
        curve["sensitivity"], curve["precision"], where="pre", color=_BLUE,
        label=_told("Average precision", row, "auprc"),
    )  # fmt: skip
    axis.set(xlabel="Sensitivity (recall)", ylabel="Precision", title=_title(report))
    _square(axis, "lower left")


def _reliability(axis: Any, report: dict[str, Any]) -> None:
    axis.plot([0, 1], [0, 1], color=_GRAY, linewidth=1, linestyle="--", label="perfect")
    for when, colour in (("before", _GRAY), ("after", _BLUE)):
        found = report["calibration_effect"][when]
        if found is None:
            continue
        bins = found["reliability"]
        axis.plot(
            [row["mean"] for row in bins], [row["share"] for row in bins], color=colour, linewidth=1,
            label=f"{when} calibration, ECE {found['ece']:.3f}",
        )  # fmt: skip
        # A dot's area grows with its studies: what a handful of them do is noise.
        axis.scatter(
            [row["mean"] for row in bins], [row["share"] for row in bins], color=colour,
            s=[6 + min(row["n"], 60) for row in bins],
        )  # fmt: skip
    bins = report["calibration_effect"]["after"]["reliability"]
    most = max(row["n"] for row in bins)
    axis.bar(
        [row["mean"] for row in bins], [0.15 * row["n"] / most for row in bins], width=0.04, color=_BLUE, alpha=0.25,
        label=f"studies in a bin (at most {most})",
    )  # fmt: skip
    axis.set(xlabel="P(abnormal), mean of the bin", ylabel="Share that is abnormal", title=_title(report))
    _square(axis, "upper left")


def _parts(figure: Any, report: dict[str, Any]) -> None:
    groups = list(_groups(report).items())[::-1]
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name, title in zip(axes, ("auroc", "kappa"), ("AUROC", "Cohen's kappa"), strict=True):
        for place, (_, row) in enumerate(groups):
            value, interval = row["figures"][name], row["intervals"].get(name)
            if value is not None and interval is not None:
                axis.plot(interval, [place, place], color=_BLUE, linewidth=2)
                axis.plot(value, place, marker="o", color=_BLUE)
        axis.set(xlabel=f"{title}, 95 % interval", ylim=(-0.6, len(groups) - 0.4))
        axis.grid(axis="x", alpha=0.3)
    told = [f"{name} ({row['figures']['n_abnormal']} of {row['figures']['n']})" for name, row in groups]
    axes[0].set_yticks(range(len(groups)), told)
    figure.suptitle(f"{_title(report)}: abnormal of all", fontsize=11)


def _groups(report: dict[str, Any]) -> dict[str, Any]:
    """Figures of studies by body part, and by region where the report knows those."""
    return {**report["study"], **{f"shows {name}": row for name, row in report.get("region", {}).items()}}


def _told(what: str, row: dict[str, Any], name: str) -> str:
    low, high = row["intervals"][name]
    return f"{what} {row['figures'][name]:.3f} ({low:.3f} to {high:.3f})"


def _title(report: dict[str, Any]) -> str:
    return f"{report['study']['overall']['figures']['n']} studies of {report['split']}"


def _square(axis: Any, legend: str) -> None:
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axis.grid(alpha=0.3)
    axis.legend(loc=legend, fontsize=8, framealpha=0.9)
