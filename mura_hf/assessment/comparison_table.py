"""A table of recipes against each other."""

from pathlib import Path
from typing import Any


def write_comparison_table(report: dict[str, Any], folder: str | Path) -> Path:
    """Writes AUROCs and their differences as a Markdown table, a row for each pair.

    Args:
        report: Of `compare_recipes`.
        folder: Where `comparison.md` goes.

    Returns:
        The file.
    """
    groups = [group for group in next(iter(report["pairs"].values()), {}) if group != "all"]
    titles = ["first against second", "first", "second", "difference", *(f"{_words(one)} apart" for one in groups)]
    lines = [titles, ["---"] * len(titles)]
    for pair, figures in report["pairs"].items():
        first, second = pair.split(" - ")
        lines.append(
            [
                f"`{first}` against `{second}`",
                *(_aurocs(report["recipes"][name]["all"]) for name in (first, second)),
                *(_difference(figures[group]["auroc"]) for group in ("all", *groups)),
            ]
        )
    path = Path(folder) / "comparison.md"
    path.write_text("".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    return path


def _words(group: str) -> str:
    return group.replace("_", " ")


def _aurocs(found: dict[str, Any]) -> str:
    """The mean, and each seed in brackets."""
    return f"{_short(found['auroc'])} ({', '.join(map(_short, found['auroc_by_seed']))})"


def _difference(row: dict[str, float]) -> str:
    return f"{_short(row['difference'], '+')} ({_short(row['low'], '+')} to {_short(row['high'], '+')})"


def _short(value: float, sign: str = "") -> str:
    """Three decimals without the zero in front of them."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1)
