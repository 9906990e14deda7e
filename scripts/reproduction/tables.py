"""The table of our figures beside the published ones, as Markdown, CSV and JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from plausibility import Flag, find_flags
from published import (
    ALL_PARTS,
    PublishedFigure,
    PublishedStudy,
    PublishedSystem,
    load_published,
    print_share,
    split_names,
)
from runs import Reproduction, run_of, starts_pretrained

from mura_hf.common import csv_text, replace_file
from mura_hf.data import SOURCES

OUR_SPLIT = "valid"
_OF_OUR_OWN = (("study", "accuracy"), ("study", "kappa"), ("study", "auroc"))
"""Figures that are shown for a system without published ones."""


@dataclass(frozen=True)
class ComparisonRow:
    """A row of the table.

    Attributes:
        study: Key of the study.
        system: Name of the system.
        config: Our config, or the baseline; None if there is none.
        part: A body part, or "all" of the system's.
        metric: Name of the figures.
        level: "image" or "study"; of both figures.
        split: What the published figure was measured on, in words.
        printed: The published figure, a share, with its own digits; None if there is none.
        ours: Our figure; None if there is none, or it is not defined.
        low: Lower end of its 95 % interval over patients.
        high: Upper end.
        n: Number of images or studies of ours.
        constant: Whether our figure is that of one answer for all.
        reasons: Why the two must not be compared, a keyword and a sentence each; empty if they may be.
        flags: What is wrong with the published figure, in keywords.
        note: A remark on the published figure.
    """

    study: str
    system: str
    config: str | None
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
    """The rows of a study.

    Args:
        study: The published figures.
        flags: From `find_flags`.
        reached: Our results; None for the published figures alone.
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
            reasons.append(("train", "we measure nothing on train"))
        else:
            ours, reasons = _measured(system, figure.part, figure.metric, figure.level, reached)
        if figure.metric in study.differs:
            reasons.append(("metric", study.differs[figure.metric]))
        if figure.split not in ("train", OUR_SPLIT):
            reasons.append(
                ("split", f"the study's figure is of {split_names()[figure.split]}, ours of {_our_split(reached)}")
            )
    return ComparisonRow(
        study.key, system.name, system.config or system.baseline, figure.part, figure.metric, figure.level,
        split_names()[figure.split], figure.printed, **ours, reasons=tuple(reasons), flags=flags, note=figure.note,
    )  # fmt: skip


def _row_of_our_own(
    study: PublishedStudy, system: PublishedSystem, level: str, metric: str, reached: Reproduction
) -> ComparisonRow:
    ours, reasons = _measured(system, ALL_PARTS, metric, level, reached)
    reasons.append(("no figure", "the study gives no figure for it"))
    return ComparisonRow(
        study.key, system.name, system.config, ALL_PARTS, metric, level, None, None, **ours, reasons=tuple(reasons),
        flags=(), note=None,
    )  # fmt: skip


def _measured(
    system: PublishedSystem, part: str, metric: str, level: str, reached: Reproduction
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Our figure, and the reasons against comparing it."""
    run = run_of(system)
    if run is None:
        return _no_figure(), [("no config", "we have no config for it")]
    if run.name in reached.failed:
        return _no_figure(), [("failed", f"{run.name} failed: {reached.failed[run.name]}")]
    if run.name not in reached.records:
        return _no_figure(), [("not run", "it was not selected")]
    record, reasons = reached.records[run.name], []
    if reached.source != "mura":
        reasons.append(("data", f"our figures are of {_our_split(reached)}"))
    elif not record["whole_valid"]:
        reasons.append(("data", "this copy of MURA lacks a part of the official valid set"))
    if run.config is not None and (budget := reached.budget.describe()):
        reasons.append(("budget", f"our training was shortened: {budget}"))
    if reached.budget.from_scratch and run.config is not None and starts_pretrained(run.config):
        reasons.append(("start", "our weights start at random, the study's from ImageNet's"))
    # A run on a single body part has no separate figures for it.
    place = "overall" if part == ALL_PARTS or run.body_parts == (part,) else part
    found = record[level].get(place)
    if found is None:
        return _no_figure(), [*reasons, ("no such part", f"there is no {part} in {_our_split(reached)}")]
    low, high = found["intervals"].get(metric, (None, None))
    figures = found["figures"]
    one_answer = (figures["sensitivity"], figures["specificity"]) in ((0, 1), (1, 0))
    constant = one_answer and metric != "auroc"  # which needs no threshold
    return {"ours": figures[metric], "low": low, "high": high, "n": figures["n"], "constant": constant}, reasons


def _no_figure() -> dict[str, Any]:
    return {**dict.fromkeys(("ours", "low", "high", "n")), "constant": False}


def _our_split(reached: Reproduction) -> str:
    return SOURCES[reached.source].held_out


TABLE_FILES = ("reproduction.md", "reproduction.csv", "reproduction.json")
_METRICS = {"auroc": "AUROC", "f1": "F1"}


def render_table(studies: Sequence[str], reached: Reproduction | None = None) -> str:
    """The table in Markdown: for each study its notes, the rows, and what is wrong with its figures.

    Args:
        studies: Keys of `load_published`.
        reached: Our results; None for the published figures alone.
    """
    parts = [_head(reached)]
    for key in studies:
        study = load_published()[key]
        flags = find_flags(study)
        parts.append(_section(study, make_rows(study, flags, reached), flags, reached))
    return "\n\n".join(parts) + "\n"


def write_tables(studies: Sequence[str], reached: Reproduction, folder: str | Path) -> str:
    """Writes the files of `TABLE_FILES` and returns the Markdown.

    Args:
        studies: Keys of `load_published`.
        reached: Our results.
        folder: Folder of the files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    published = [load_published()[key] for key in studies]
    flags = {study.key: find_flags(study) for study in published}
    rows = [row for study in published for row in make_rows(study, flags[study.key], reached)]
    content = {
        "data": SOURCES[reached.source].to_dict(),
        "budget": asdict(reached.budget),
        "rows": [{**asdict(row), "reasons": dict(row.reasons)} for row in rows],
        "notes": {study.key: study.notes for study in published},
        "flags": {key: [{"kind": flag.kind, "text": flag.text} for flag in found] for key, found in flags.items()},
        "runs": reached.records,
        "failed": reached.failed,
    }
    markdown = render_table(studies, reached)
    for name, text in zip(TABLE_FILES, (markdown, _csv(rows), json.dumps(content, indent=1) + "\n"), strict=True):
        replace_file(folder / name, text.encode())
    return markdown


def _head(reached: Reproduction | None) -> str:
    note = (
        "Published figures are given as printed, as shares, with what must be known about them. A figure is called "
        "impossible if it can result neither from rounding nor from cutting off decimals."
    )
    if reached is None:
        return f"# Published figures\n\n{note}"
    budget = reached.budget.describe()
    text = f"Training is shortened: {budget}. " if budget else "Training is not shortened. "
    if reached.budget.from_scratch:
        text += "All weights start at random, also where a study's start from ImageNet's. "
    return (
        "# The systems of the studies, trained again\n\nOur figures are measured on "
        f"{SOURCES[reached.source].held_out}, with 95 % intervals over patients; abnormal is above "
        f".5. {text}The configs say what a study "
        f'leaves open, and what was chosen. {note} **Only rows with "yes" are a comparison.**'
    )


def _section(
    study: PublishedStudy, rows: Sequence[ComparisonRow], flags: Sequence[Flag], reached: Reproduction | None
) -> str:
    name = f"{study.key}. " if len(study.key) == 1 else ""
    lines = [f"## {name}{study.title}", "", *(f"- {note}" for note in study.notes), ""]
    heads = ["system", "config", "part", "figure", "measured on", "published"]
    heads += ["ours (95 %)", "n", "comparable"] if reached is not None else []
    lines += [_line([*heads, "remarks"]), _line(["---"] * (len(heads) + 1))]
    for row in rows:
        cells = [
            row.system,
            f"`{row.config}`" if row.config else "",
            row.part,
            f"{_METRICS.get(row.metric, row.metric)} of {'images' if row.level == 'image' else 'studies'}",
            row.split or "",
            row.printed or "none",
        ]
        if reached is not None:
            verdict = "no: " + ", ".join(word for word, _ in row.reasons) if row.reasons else "yes"
            cells += [_ours(row), "" if row.n is None else f"{row.n:,}", verdict]
        ours = ["ours: one answer for all"] if row.constant else []
        lines.append(_line([*cells, "; ".join([*row.flags, *([row.note] if row.note else []), *ours])]))
    reasons = dict.fromkeys(reason for row in rows for reason in row.reasons)
    if reasons:
        lines += [
            "",
            "Why rows are not comparable:",
            "",
            *(f"- **{word}**: {text.rstrip('.')}." for word, text in reasons),
        ]
    if flags:
        lines += ["", "What is wrong with the published figures:", ""]
        lines += [f"- **{flag.kind}**: {flag.text}." for flag in flags]
    return "\n".join(lines)


def _ours(row: ComparisonRow) -> str:
    if row.n is None:
        return "none"
    if row.ours is None:
        return "not defined"
    if row.low is None or row.high is None:
        return print_share(row.ours)
    return f"{print_share(row.ours)} ({print_share(row.low)} to {print_share(row.high)})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _csv(rows: Sequence[ComparisonRow]) -> str:
    names = [item.name for item in fields(ComparisonRow) if item.name not in ("reasons", "flags", "note")]
    table = [[*names, "comparison", "why_not", "flags", "note", "notes_of_the_study"]]
    for row in rows:
        values = asdict(row)
        table.append(
            [
                *(values[name] for name in names),
                "no" if row.reasons else "yes",
                "; ".join(text for _, text in row.reasons),
                "; ".join(row.flags),
                row.note,
                " ".join(load_published()[row.study].notes),
            ]
        )
    return csv_text(table)
