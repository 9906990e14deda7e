"""A plot of recipes against each other."""

from pathlib import Path
from typing import Any


def plot_comparison(report: dict[str, Any], folder: str | Path) -> Path:
    """Draws the differences in AUROC with their intervals, a line for each pair and group of studies.

    Args:
        report: Of `compare_recipes`.
        folder: Where `comparison.png` goes.

    Returns:
        The file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [
        (f"{pair}, {group.replace('_', ' ')} studies", figures["auroc"])
        for pair, groups in report["pairs"].items()
        for group, figures in groups.items()
        if "auroc" in figures
    ]
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, (_, row) in enumerate(reversed(lines)):
        axis.plot([row["low"], row["high"]], [place, place], color="#1f4e79", linewidth=2)
        axis.plot(row["difference"], place, marker="o", color="#1f4e79")
    axis.axvline(0, color="0.5", linewidth=1)
    axis.set_yticks(range(len(lines)), [name for name, _ in reversed(lines)])
    axis.set(xlabel=f"Difference in AUROC, mean of {len(report['seeds'])} seeds, 95 % interval over patients")
    axis.grid(axis="x", alpha=0.3)
    path = Path(folder) / "comparison.png"
    figure.savefig(path, dpi=120)
    return path
