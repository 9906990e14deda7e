"""Published figures that may stand beside ours: of the same level and the same studies."""

from collections.abc import Mapping
from typing import Any

from ..data.mura_counts import OFFICIAL_COUNTS
from ..evaluation import EvaluationReport, GroupReport
from .published import ALL_PARTS, load_published


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
