"""What a recipe reached, beside what its study printed: the lines of the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data import SOURCES
from .implausible import Flag
from .published import ALL_PARTS, PublishedFigure, PublishedStudy, PublishedSystem, split_names
from .reproduction import Reproduction
from .reproduction_plan import run_of, starts_pretrained

OUR_SPLIT = "valid"
_OF_OUR_OWN = (("study", "accuracy"), ("study", "kappa"), ("study", "auroc"))
"""What is told of a system for which the study gives no figure."""


@dataclass(frozen=True)
class ComparisonRow:
    """A line of the table.

    Attributes:
        study: Key of the study.
        system: Its name.
        recipe: Ours, or the baseline; None where we have none.
        part: A body part, or "all" of the system's.
        metric: What the figures are.
        level: "image" or "study"; of both figures.
        split: What the study's figure was measured on, in words.
        printed: The study's figure, a share, with its own digits; None where it gives none.
        ours: Ours; None where there is none, or it is not defined.
        low: Lower end of its 95 % interval over patients.
        high: Upper end.
        n: Images or studies that ours is of.
        constant: Whether ours is that of one answer for all.
        reasons: Why the two must not be compared, a short word and a sentence each; empty where they may be.
        flags: What is wrong with the study's figure, in short.
        note: What must be said beside it.
    """

    study: str
    system: str
    recipe: str | None
    part: str
    metric: str
    level: str
    split: str | None
    printed: str | None
    ours: float | None
    low: float | None
    high: float | None
    n: int | None
    constant: bool
    reasons: tuple[tuple[str, str], ...]
    flags: tuple[str, ...]
    note: str | None


def make_rows(study: PublishedStudy, flags: Sequence[Flag], reached: Reproduction | None) -> list[ComparisonRow]:
    """The lines of a study.

    Args:
        study: What it printed.
        flags: Of `find_flags`.
        reached: What our recipes did; None leaves the study's figures alone.
    """
    rows = []
    for system in study.systems:
        for figure in system.figures:
            kinds = {flag.kind: None for flag in flags if (system.name, figure) in flag.about}
            rows.append(_row(study, system, figure, tuple(kinds), reached))
        if not system.figures and reached is not None:
            rows += [_row_of_our_own(study, system, *what, reached) for what in _OF_OUR_OWN]
    return rows


def _row(
    study: PublishedStudy,
    system: PublishedSystem,
    figure: PublishedFigure,
    flags: tuple[str, ...],
    reached: Reproduction | None,
) -> ComparisonRow:
    ours, reasons = _no_figure(), []
    if reached is not None:
        if figure.split == "train":
            reasons.append(("train", "of ours nothing is measured on train"))
        else:
            ours, reasons = _measured(system, figure.part, figure.metric, figure.level, reached)
        if figure.metric in study.differs:
            reasons.append(("metric", study.differs[figure.metric]))
        if figure.split not in ("train", OUR_SPLIT):
            reasons.append(
                ("split", f"the study's is of {split_names()[figure.split]}, ours of {_our_split(reached)}")
            )
    return ComparisonRow(
        study.key, system.name, system.recipe or system.baseline, figure.part, figure.metric, figure.level,
        split_names()[figure.split], figure.printed, **ours, reasons=tuple(reasons), flags=flags, note=figure.note,
    )  # fmt: skip


def _row_of_our_own(
    study: PublishedStudy, system: PublishedSystem, level: str, metric: str, reached: Reproduction
) -> ComparisonRow:
    ours, reasons = _measured(system, ALL_PARTS, metric, level, reached)
    reasons.append(("no figure", "the study gives no figure for it"))
    return ComparisonRow(
        study.key, system.name, system.recipe, ALL_PARTS, metric, level, None, None, **ours, reasons=tuple(reasons),
        flags=(), note=None,
    )  # fmt: skip


def _measured(
    system: PublishedSystem, part: str, metric: str, level: str, reached: Reproduction
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Our figure, and why it is there only for itself."""
    run = run_of(system)
    if run is None:
        return _no_figure(), [("no recipe", "there is no recipe of ours for it")]
    if run.name in reached.failed:
        return _no_figure(), [("failed", f"{run.name} failed: {reached.failed[run.name]}")]
    if run.name not in reached.records:
        return _no_figure(), [("not run", "it was not asked for")]
    record, reasons = reached.records[run.name], []
    if reached.source != "mura":
        reasons.append(("data", f"ours are of {_our_split(reached)}"))
    elif not record["whole_valid"]:
        reasons.append(("data", "this copy of MURA has not all of the official valid set"))
    if run.recipe is not None and (told := reached.budget.told()):
        reasons.append(("budget", f"ours were trained short: {told}"))
    if reached.budget.from_scratch and run.recipe is not None and starts_pretrained(run.recipe):
        reasons.append(("start", "ours started from random weights, the study's from ImageNet's"))
    # A run on a single part has no other.
    place = "overall" if part == ALL_PARTS or run.body_parts == (part,) else part
    found = record[level].get(place)
    if found is None:
        return _no_figure(), [*reasons, ("no such part", f"there is no {part} in {_our_split(reached)}")]
    low, high = found["intervals"].get(metric, (None, None))
    figures = found["figures"]
    one_answer = (figures["sensitivity"], figures["specificity"]) in ((0, 1), (1, 0))
    constant = one_answer and metric != "auroc"  # which asks for no answer
    return {"ours": figures[metric], "low": low, "high": high, "n": figures["n"], "constant": constant}, reasons


def _no_figure() -> dict[str, Any]:
    return {**dict.fromkeys(("ours", "low", "high", "n")), "constant": False}


def _our_split(reached: Reproduction) -> str:
    return SOURCES[reached.source].held_out
