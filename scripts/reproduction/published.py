"""Figures that the MURA paper and five studies printed."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mura_hf.models import BODY_PARTS

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
    # Its name ends in .yml, because the .yaml files of this folder are configs.
    return yaml.load(Path(__file__).with_name("published_figures.yml").read_text(), Loader=yaml.BaseLoader)


@cache
def load_published() -> dict[str, PublishedStudy]:
    """Returns the studies in `published_figures.yml` by key."""
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
