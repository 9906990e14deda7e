"""Published figures of MURA studies, and those that can be compared with an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..data.mura_release import OFFICIAL_COUNTS
from ..metrics import EvaluationReport, GroupReport
from ..models import BODY_PARTS

ALL_PARTS = "all"
LEVELS = ("image", "study")
METRICS = ("accuracy", "kappa", "f1", "sensitivity", "specificity", "auroc")

_FILE = Path(__file__).with_name("published_figures.yaml")
_STUDY_KEYS = {
    "title",
    "body_parts",
    "level",
    "taken_for",
    "split",
    "percent",
    "notes",
    "claims",
    "differs",
    "systems",
}
_SYSTEM_KEYS = {"system", "config", "baseline", "body_parts", "figures"}
_FIGURE_KEYS = {"metric", "level", "split", "note"}
_CLAIM_KEYS = {"system", "metric", "part", "split", "figure", "against", "its_metric", "its_level", "its_value"}


@dataclass(frozen=True)
class PublishedFigure:
    """One figure of a system."""

    metric: str  # of `METRICS`
    part: str  # a body part, or "all" of those that the system is for
    value: float  # as a share
    digits: int  # printed decimals of the share
    level: str  # of `LEVELS`
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
class Claim:
    """A comparison with a figure of others that a study makes. None stands for all, or for several figures."""

    metric: str
    against: str  # whose figure it is compared with
    its_metric: str
    its_level: str
    its_value: str | None = None
    system: str | None = None
    part: str | None = None
    split: str | None = None
    printed: str | None = None  # which figure, if a system has several

    def is_about(self, system: PublishedSystem, figure: PublishedFigure) -> bool:
        """Returns whether a figure is among those that are compared."""
        wanted = (self.metric, self.system, self.part, self.split, self.printed)
        has = (figure.metric, system.name, figure.part, figure.split, figure.printed)
        return all(one in (None, other) for one, other in zip(wanted, has, strict=True))


@dataclass(frozen=True)
class PublishedStudy:
    """A study and its systems."""

    key: str  # "A" to "E", or "mura_paper"
    title: str
    notes: tuple[str, ...]  # remarks on all of its figures
    taken_for: str | None  # the level that its figures may be mistaken for, if the study does not state theirs
    differs: dict[str, str]  # metric -> how the study's definition differs from ours
    claims: tuple[Claim, ...]
    systems: tuple[PublishedSystem, ...]


def print_share(value: float, digits: int = 3) -> str:
    """Formats a share or a kappa without a leading zero."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


@cache
def load_published() -> dict[str, PublishedStudy]:
    """Returns the studies in `published_figures.yaml` by key."""
    return {key: _study(key, values) for key, values in _read()["studies"].items()}


@cache
def split_names() -> dict[str, str]:
    """Returns key of a split -> its description."""
    return {key: values["name"] for key, values in _read()["splits"].items()}


@cache
def _read() -> dict[str, Any]:
    # BaseLoader keeps every value as text, because .500 and .5 have different digits.
    return yaml.load(_FILE.read_text(), Loader=yaml.BaseLoader)


def _study(key: str, values: dict[str, Any]) -> PublishedStudy:
    _check_keys(values, _STUDY_KEYS, key)
    return PublishedStudy(
        key=key,
        title=values["title"],
        notes=tuple(values["notes"]),
        taken_for=values.get("taken_for"),
        differs=values.get("differs", {}),
        claims=tuple(_claim(claim, values) for claim in values.get("claims", [])),
        systems=tuple(_system(system, values) for system in values["systems"]),
    )


def _system(values: dict[str, Any], study: dict[str, Any]) -> PublishedSystem:
    _check_keys(values, _SYSTEM_KEYS, values["system"])
    figures = []
    for group in values.get("figures", []):
        _check_keys(group, {*_FIGURE_KEYS, *BODY_PARTS, ALL_PARTS}, values["system"])
        group = {"level": study["level"], "split": study["split"], **group}
        fields = {name: group[name] for name in _FIGURE_KEYS if name in group}
        for part in (*BODY_PARTS, ALL_PARTS):
            if part in group:
                value, digits = _number(group[part], study)
                figures.append(PublishedFigure(part=part, value=value, digits=digits, **fields))
    return PublishedSystem(
        name=values["system"],
        config=values.get("config"),
        baseline=values.get("baseline"),
        body_parts=tuple(values.get("body_parts", study.get("body_parts", BODY_PARTS))),
        figures=tuple(figures),
    )


def _claim(values: dict[str, Any], study: dict[str, Any]) -> Claim:
    _check_keys(values, _CLAIM_KEYS, "a claim")
    fields = {name: text for name, text in values.items() if name != "figure"}
    if "figure" in values:
        fields["printed"] = print_share(*_number(values["figure"], study))
    return Claim(**fields)


def _number(text: str, study: dict[str, Any]) -> tuple[float, int]:
    """Returns a printed number as a share, and the number of decimals of the share."""
    _, _, decimals = text.partition(".")
    digits = len(decimals) + 2 * (study.get("percent") == "true")
    return int(text.replace(".", "")) / 10**digits, digits


def _check_keys(values: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{_FILE.name}, {where}: unknown keys {', '.join(unknown)}")


def comparable_figures(
    data: dict[str, Any] | None, split: str, levels: Mapping[str, EvaluationReport]
) -> list[dict[str, Any]]:
    """Returns the published figures that can be compared with an evaluation on the official valid set of MURA v1.1.

    Level, split, images and studies must be the same, and the study must state its level and define the metric as we
    do.

    Args:
        data: Description of the evaluated data, from `load_splits`.
        split: The evaluated split.
        levels: From `measure_levels`.

    Returns:
        For each figure `study`, `title`, `system`, `metric`, `part`, `level`, `printed`, `ours`, `low`, `high` and
        `note`.
    """
    if data is None or data.get("key") != "mura" or split != "valid":
        return []
    rows = []
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
    parts = body_parts if figure.part == ALL_PARTS else (figure.part,)
    kind = {"image": "images", "study": "studies"}[figure.level]
    normal, abnormal = (
        sum(getattr(OFFICIAL_COUNTS["valid"][part], f"{label}_{kind}") for part in parts)
        for label in ("normal", "abnormal")
    )
    return (ours.figures["n"], ours.figures["n_abnormal"]) == (normal + abnormal, abnormal)
