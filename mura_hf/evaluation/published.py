"""Published figures of MURA studies, and those that can be compared with an evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..data.mura_release import OFFICIAL_COUNTS
from ..metrics import EvaluationReport, GroupReport
from ..models import BODY_PARTS

ALL_PARTS = "all"


@dataclass(frozen=True)
class PublishedFigure:
    """One figure of a system."""

    metric: str  # "accuracy", "kappa", "f1", "sensitivity", "specificity" or "auroc"
    part: str  # a body part, or "all" of those that the system is for
    value: float  # as a share
    digits: int  # printed decimals of the share
    level: str  # "image" or "study"
    split: str  # a key of `split_names`
    note: str | None = None

    @property
    def printed(self) -> str:
        """The share with the digits that it was printed with."""
        return print_share(self.value, self.digits)


@dataclass(frozen=True)
class PublishedSystem:
    """A system of a study and its figures."""

    name: str
    config: str | None  # name of the config that reproduces it
    baseline: str | None  # "random" if it does not look at images
    body_parts: tuple[str, ...]  # what it was trained and measured on
    figures: tuple[PublishedFigure, ...]


@dataclass(frozen=True)
class PublishedStudy:
    """A study and its systems."""

    key: str  # "A" to "E", or "mura_paper"
    title: str
    notes: tuple[str, ...]  # remarks on all of its figures
    taken_for: str | None  # the level that its figures may be mistaken for, if the study does not state theirs
    differs: dict[str, str]  # metric -> how the study's definition differs from ours
    claims: tuple[dict[str, str], ...]  # comparisons with figures of others, see scripts/reproduction/plausibility.py
    systems: tuple[PublishedSystem, ...]


def print_share(value: float, digits: int = 3) -> str:
    """Formats a share or a kappa without a leading zero."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


@cache
def _read() -> dict[str, Any]:
    # BaseLoader keeps every value as text, because .500 and .5 have different digits.
    return yaml.load(Path(__file__).with_name("published_figures.yaml").read_text(), Loader=yaml.BaseLoader)


@cache
def load_published() -> dict[str, PublishedStudy]:
    """Returns the studies in `published_figures.yaml` by key."""
    return {key: _study(key, values) for key, values in _read()["studies"].items()}


def split_names() -> dict[str, str]:
    """Returns key of a split -> its description."""
    return _read()["splits"]


def _study(key: str, values: dict[str, Any]) -> PublishedStudy:
    systems = []
    for system in values["systems"]:
        figures = []
        for group in system.get("figures", []):
            fields = {"level": values["level"], "split": values["split"], **group}
            parts = {part: fields.pop(part) for part in (*BODY_PARTS, ALL_PARTS) if part in fields}
            for part, text in parts.items():
                value, digits = _number(text, percent=values.get("percent") == "true")
                figures.append(PublishedFigure(part=part, value=value, digits=digits, **fields))
        parts = system.get("body_parts", values.get("body_parts", BODY_PARTS))
        config, baseline = system.get("config"), system.get("baseline")
        systems.append(PublishedSystem(system["system"], config, baseline, tuple(parts), tuple(figures)))
    return PublishedStudy(
        key=key,
        title=values["title"],
        notes=tuple(values["notes"]),
        taken_for=values.get("taken_for"),
        differs=values.get("differs", {}),
        claims=tuple(values.get("claims", [])),
        systems=tuple(systems),
    )


def _number(text: str, *, percent: bool = False) -> tuple[float, int]:
    """Returns a printed number as a share, and the number of decimals of the share."""
    digits = len(text.partition(".")[2]) + 2 * percent
    return int(text.replace(".", "")) / 10**digits, digits


def comparable_figures(
    data: dict[str, Any] | None, split: str, measure: Callable[[], Mapping[str, EvaluationReport]]
) -> list[dict[str, Any]]:
    """Returns the published figures that can be compared with an evaluation on the official valid set of MURA v1.1.

    Level, split, images and studies must be the same, and the study must state its level and define the metric as we
    do.

    Args:
        data: Description of the evaluated data, from `load_splits`.
        split: The evaluated split.
        measure: Gives the result of `measure_levels` at a threshold of .5, the rule of the MURA paper.

    Returns:
        For each figure `study`, `title`, `system`, `metric`, `part`, `level`, `printed`, `ours`, `low`, `high` and
        `note`.
    """
    if data is None or data.get("key") != "mura" or split != "valid":
        return []
    rows, levels = [], measure()
    for key, study in load_published().items():
        for system in study.systems:
            for figure in system.figures:
                ours = levels[figure.level].groups.get("overall" if figure.part == ALL_PARTS else figure.part)
                same = figure.split == split and study.taken_for is None and figure.metric not in study.differs
                if not same or ours is None or not _is_complete(ours, figure, system.body_parts):
                    continue
                low, high = ours.intervals.get(figure.metric, (None, None))
                rows.append({
                    "study": key, "title": study.title, "system": system.name, "metric": figure.metric,
                    "part": figure.part, "level": figure.level, "printed": figure.printed,
                    "ours": ours.figures[figure.metric], "low": low, "high": high, "note": figure.note,
                })  # fmt: skip
    return rows


def _is_complete(ours: GroupReport, figure: PublishedFigure, body_parts: tuple[str, ...]) -> bool:
    """Returns whether our group has as many normal and abnormal images, or studies, as the official valid set."""
    counts = [OFFICIAL_COUNTS["valid"][part] for part in (body_parts if figure.part == ALL_PARTS else [figure.part])]
    kind = {"image": "images", "study": "studies"}[figure.level]
    normal, abnormal = (sum(getattr(one, f"{label}_{kind}") for one in counts) for label in ("normal", "abnormal"))
    return (ours.figures["n"], ours.figures["n_abnormal"]) == (normal + abnormal, abnormal)
