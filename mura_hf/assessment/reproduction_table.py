"""The comparison table: Markdown to read, CSV and JSON to work with."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from ..data import SOURCES
from ..files import replace_file
from .implausible import Flag, find_flags
from .published import PublishedStudy, load_published, print_share
from .reproduction import Reproduction
from .reproduction_rows import ComparisonRow, make_rows

TABLE_FILES = ("reproduction.md", "reproduction.csv", "reproduction.json")
_METRICS = {"auroc": "AUROC", "f1": "F1"}


def render_table(studies: Sequence[str], reached: Reproduction | None = None) -> str:
    """The table as Markdown: a section a study, with its notes above and what its figures suffer from below.

    Args:
        studies: Keys of `load_published`.
        reached: What our recipes did; None for the studies' figures alone.
    """
    parts = [_head(reached)]
    for key in studies:
        study = load_published()[key]
        flags = find_flags(study)
        parts.append(_section(study, make_rows(study, flags, reached), flags, reached))
    return "\n\n".join(parts) + "\n"


def write_tables(studies: Sequence[str], reached: Reproduction, folder: str | Path) -> str:
    """Writes the files of `TABLE_FILES`, and gives the Markdown.

    Args:
        studies: Keys of `load_published`.
        reached: What our recipes did.
        folder: Where to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    published = [load_published()[key] for key in studies]
    flags = {study.key: find_flags(study) for study in published}
    rows = [row for study in published for row in make_rows(study, flags[study.key], reached)]
    told = {
        "data": SOURCES[reached.source].to_dict(),
        "budget": asdict(reached.budget),
        "rows": [{**asdict(row), "reasons": dict(row.reasons)} for row in rows],
        "notes": {study.key: study.notes for study in published},
        "flags": {key: [{"kind": flag.kind, "text": flag.text} for flag in found] for key, found in flags.items()},
        "runs": reached.records,
        "failed": reached.failed,
    }
    markdown = render_table(studies, reached)
    for name, text in zip(TABLE_FILES, (markdown, _csv(rows), json.dumps(told, indent=1) + "\n"), strict=True):
        replace_file(folder / name, text.encode())
    return markdown


def _head(reached: Reproduction | None) -> str:
    told = (
        "The studies' figures are as they printed them, as shares. What must be said of them stands with them; what "
        "is called impossible can come neither from rounding nor from cutting off decimals."
    )
    if reached is None:
        return f"# What the studies printed\n\n{told}"
    short = reached.budget.told()
    cut = f"Recipes are cut short: {short}. " if short else "Recipes are run whole. "
    if reached.budget.from_scratch:
        cut += "All weights start at random, also where a study's start from ImageNet's. "
    return (
        f"# The systems of the studies, run again\n\nOurs are measured on {SOURCES[reached.source].held_out}, with "
        f"95 % intervals from a bootstrap over patients; abnormal is what is above .5. {cut}What a study left open, "
        f"and what was chosen, stands at the head of its recipe. {told} **Only lines that say yes are a comparison.**"
    )


def _section(
    study: PublishedStudy, rows: Sequence[ComparisonRow], flags: Sequence[Flag], reached: Reproduction | None
) -> str:
    name = f"{study.key}. " if len(study.key) == 1 else ""
    lines = [f"## {name}{study.title}", "", *(f"- {note}" for note in study.notes), ""]
    heads = ["system", "recipe", "part", "figure", "measured on", "study"]
    heads += ["ours (95 %)", "n", "comparison?"] if reached is not None else []
    lines += [_line([*heads, "beware"]), _line(["---"] * (len(heads) + 1))]
    for row in rows:
        cells = [
            row.system,
            f"`{row.recipe}`" if row.recipe else "",
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
            "What stands against comparing:",
            "",
            *(f"- **{word}**: {text.rstrip('.')}." for word, text in reasons),
        ]
    if flags:
        lines += ["", "What the counts say of its own figures:", ""]
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
    text = io.StringIO()
    names = [item.name for item in fields(ComparisonRow) if item.name not in ("reasons", "flags", "note")]
    table = csv.DictWriter(text, [*names, "comparison", "why_not", "flags", "note", "notes_of_the_study"])
    table.writeheader()
    for row in rows:
        values = asdict(row)
        table.writerow(
            {
                **{name: values[name] for name in names},
                "comparison": "no" if row.reasons else "yes",
                "why_not": "; ".join(text for _, text in row.reasons),
                "flags": "; ".join(row.flags),
                "note": row.note,
                "notes_of_the_study": " ".join(load_published()[row.study].notes),
            }
        )
    return text.getvalue()
