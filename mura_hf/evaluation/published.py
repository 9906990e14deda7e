"""Figures that studies of MURA printed, as data.

Published figures that may stand beside ours: of the same level and the same studies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..data.mura_release import OFFICIAL_COUNTS
from ..metrics import EvaluationReport, GroupReport
from ..models import BODY_PARTS

_FILE = Path(__file__).with_name("published_figures.yaml")
ALL_PARTS = "all"
LEVELS = ("image", "study")
METRICS = ("accuracy", "kappa", "f1", "sensitivity", "specificity", "auroc")

_STUDY_KEYS = {
    "title", "body_parts", "level", "taken_for", "split", "percent", "notes", "claims", "differs", "systems",
}  # fmt: skip
_SYSTEM_KEYS = {"system", "recipe", "baseline", "body_parts", "figures"}
_FIGURE_KEYS = {"metric", "level", "split", "note"}
_CLAIM_KEYS = {"system", "metric", "part", "split", "figure", "against", "its_metric", "its_level", "its_value"}


@dataclass(frozen=True)
class PublishedFigure:
    """One figure.

    Attributes:
        metric: One of `METRICS`.
        part: A body part, or "all" of those that the system is for.
        value: A share.
        digits: Decimals of the share that were printed.
        level: "image" or "study".
        split: What it was measured on, a key of `split_names`.
        note: What must be said beside it; None where nothing must.
    """

    metric: str
    part: str
    value: float
    digits: int
    level: str
    split: str
    note: str | None = None

    @property
    def printed(self) -> str:
        """The share with the digits that it was printed with."""
        return print_share(self.value, self.digits)


@dataclass(frozen=True)
class PublishedSystem:
    """A system and its figures.

    Attributes:
        name: What the study calls it, about.
        recipe: Ours for it; None where there is none.
        baseline: "random", where it looks at no picture.
        body_parts: What it was trained and measured on.
        figures: Its own.
    """

    name: str
    recipe: str | None
    baseline: str | None
    body_parts: tuple[str, ...]
    figures: tuple[PublishedFigure, ...]


@dataclass(frozen=True)
class Claim:
    """A comparison that a study draws, of its figures with someone's.

    Attributes:
        metric: Of the study's figures that are compared.
        against: Whose.
        its_metric: What that figure is.
        its_level: Of images or of studies.
        its_value: That figure; None where there are several.
        system: Whose figures are compared; all where None.
        part: Of which part; all where None.
        split: On which split; all where None.
        printed: Which figure, where a system has several; all where None.
    """

    metric: str
    against: str
    its_metric: str
    its_level: str
    its_value: str | None = None
    system: str | None = None
    part: str | None = None
    split: str | None = None
    printed: str | None = None

    def is_about(self, system: PublishedSystem, figure: PublishedFigure) -> bool:
        """Whether a figure is among those that are compared."""
        return (
            figure.metric == self.metric
            and self.system in (None, system.name)
            and self.part in (None, figure.part)
            and self.split in (None, figure.split)
            and self.printed in (None, figure.printed)
        )


@dataclass(frozen=True)
class PublishedStudy:
    """A study.

    Attributes:
        key: "A" to "E", or "mura_paper".
        title: Its own, and what it is about.
        notes: What must be said wherever its figures stand.
        taken_for: The level that its figures may be taken for, where it does not say theirs; else None.
        differs: Metric -> how the study's differs from ours of that name.
        claims: Comparisons that it draws.
        systems: In its order.
    """

    key: str
    title: str
    notes: tuple[str, ...]
    taken_for: str | None
    differs: dict[str, str]
    claims: tuple[Claim, ...]
    systems: tuple[PublishedSystem, ...]


def print_share(value: float, digits: int = 3) -> str:
    """A share, or a kappa, without the 0 in front of its point."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


@cache
def load_published() -> dict[str, PublishedStudy]:
    """The studies by key, as `published_figures.yaml` holds them."""
    return {key: _study(key, values) for key, values in _read()["studies"].items()}


@cache
def split_names() -> dict[str, str]:
    """Key of a split -> what it is, in words."""
    return {key: values["name"] for key, values in _read()["splits"].items()}


@cache
def _read() -> dict[str, Any]:
    # Every value stays the text that it is: .500 has other digits than .5.
    return yaml.load(_FILE.read_text(), Loader=yaml.BaseLoader)


def _study(key: str, values: dict[str, Any]) -> PublishedStudy:
    _check_keys(values, _STUDY_KEYS, key)
    return PublishedStudy(
        key=key,
        title=values["title"],
        notes=tuple(values["notes"]),
        taken_for=values.get("taken_for"),
        differs=values.get("differs", {}),
        claims=tuple(_claim(one, values) for one in values.get("claims", [])),
        systems=tuple(_system(one, values) for one in values["systems"]),
    )


def _system(values: dict[str, Any], study: dict[str, Any]) -> PublishedSystem:
    _check_keys(values, _SYSTEM_KEYS, values["system"])
    figures = []
    for group in values.get("figures", []):
        _check_keys(group, {*_FIGURE_KEYS, *BODY_PARTS, ALL_PARTS}, values["system"])
        kept = {"level": study["level"], "split": study["split"], **group}
        told = {name: kept[name] for name in _FIGURE_KEYS if name in kept}
        for part in (*BODY_PARTS, ALL_PARTS):
            if part in group:
                value, digits = _number(group[part], study)
                figures.append(PublishedFigure(part=part, value=value, digits=digits, **told))
    return PublishedSystem(
        name=values["system"],
        recipe=values.get("recipe"),
        baseline=values.get("baseline"),
        body_parts=tuple(values.get("body_parts", study.get("body_parts", BODY_PARTS))),
        figures=tuple(figures),
    )


def _claim(values: dict[str, Any], study: dict[str, Any]) -> Claim:
    _check_keys(values, _CLAIM_KEYS, "a claim")
    told = {name: text for name, text in values.items() if name != "figure"}
    if "figure" in values:
        value, digits = _number(values["figure"], study)
        told["printed"] = print_share(value, digits)
    return Claim(**told)


def _number(text: str, study: dict[str, Any]) -> tuple[float, int]:
    """A printed number as a share, and the decimals of that."""
    _, _, decimals = text.partition(".")
    digits = len(decimals) + 2 * (study.get("percent") == "true")
    return int(text.replace(".", "")) / 10**digits, digits


def _check_keys(values: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{_FILE.name}, {where}: unknown keys {', '.join(unknown)}")


def published_beside(
    data: dict[str, Any] | None, split: str, levels: Mapping[str, EvaluationReport]
) -> list[dict[str, Any]]:
    """What studies printed for the official valid set of MURA v1.1, where that is what ours is measured on.

    A figure is left out where its level or split is another one, where its study computes it in another way or does
    not say its level, and where ours has not all of the official images and studies.

    Args:
        data: What ours is measured on, as `load_splits` says it.
        split: Its split.
        levels: As `measure_levels` gives them.

    Returns:
        A dict for each figure: `study`, `title`, `system`, `metric`, `part`, `level`, `printed`, `ours`, `low`,
        `high` and `note`.
    """
    if data is None or data.get("key") != "mura" or split != "valid":
        return []
    found = []
    for key, study in load_published().items():
        for system in study.systems:
            for figure in system.figures:
                place = "overall" if figure.part == ALL_PARTS else figure.part
                ours = levels[figure.level].groups.get(place)
                same = figure.split == split and study.taken_for is None and figure.metric not in study.differs
                if not same or ours is None or not _is_whole(ours, figure.part, figure.level, system.body_parts):
                    continue
                low, high = ours.intervals.get(figure.metric, (None, None))
                found.append({
                    "study": key, "title": study.title, "system": system.name, "metric": figure.metric,
                    "part": figure.part, "level": figure.level, "printed": figure.printed,
                    "ours": ours.figures[figure.metric], "low": low, "high": high, "note": figure.note,
                })  # fmt: skip
    return found


def _is_whole(ours: GroupReport, part: str, level: str, body_parts: tuple[str, ...]) -> bool:
    """Whether ours is of as many normal and abnormal images, or studies, as the official valid set of those parts."""
    parts = body_parts if part == ALL_PARTS else (part,)
    counts = [OFFICIAL_COUNTS["valid"][one] for one in parts]
    what = {"image": "images", "study": "studies"}[level]
    normal, abnormal = (sum(getattr(one, f"{label}_{what}") for one in counts) for label in ("normal", "abnormal"))
    return (ours.figures["n"], ours.figures["n_abnormal"]) == (normal + abnormal, abnormal)
