"""Facts about the official MURA release: counts of v1.1, and how the withdrawn v1.0 is recognised."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..common import BODY_PARTS
from ..errors import DatasetError
from .splits import Row


class Count(NamedTuple):
    """Images and studies of one part in one split, normal and abnormal ones."""

    normal_images: int
    abnormal_images: int
    normal_studies: int
    abnormal_studies: int

    @property
    def images(self) -> int:
        """Of both labels."""
        return self.normal_images + self.abnormal_images

    @property
    def studies(self) -> int:
        """Of both labels."""
        return self.normal_studies + self.abnormal_studies


OFFICIAL_COUNTS: dict[str, dict[str, Count]] = {
    "train": {
        "elbow": Count(2925, 2006, 1094, 660),
        "finger": Count(3138, 1968, 1280, 655),
        "forearm": Count(1164, 661, 590, 287),
        "hand": Count(4059, 1484, 1497, 521),
        "humerus": Count(673, 599, 321, 271),
        "shoulder": Count(4211, 4168, 1364, 1457),
        "wrist": Count(5765, 3987, 2134, 1326),
    },
    "valid": {
        "elbow": Count(235, 230, 92, 66),
        "finger": Count(214, 247, 92, 83),
        "forearm": Count(150, 151, 69, 64),
        "hand": Count(271, 189, 101, 66),
        "humerus": Count(148, 140, 68, 67),
        "shoulder": Count(285, 278, 99, 95),
        "wrist": Count(364, 295, 140, 97),
    },
}
"""MURA v1.1, counted in its four CSV files: 36,808 + 3,197 images of 13,457 + 1,199 studies."""

OFFICIAL_PATIENTS = {"train": 11_184, "valid": 783}

WITHDRAWN_VALID_STUDIES = {
    "elbow": 160,
    "finger": 175,
    "forearm": 137,
    "hand": 167,
    "humerus": 136,
    "shoulder": 195,
    "wrist": 238,
}
"""Valid studies of MURA v1.0, by which a copy of it is known."""

WITHDRAWN_IMAGES = 40_895

_WITHDRAWN = (
    "{tree} is MURA v1.0 ({sign}), which accidentally held data of patients and was withdrawn: "
    "delete it, and get v1.1 from Stanford"
)


def refuse_withdrawn_name(tree: Path, names: Iterable[str]) -> None:
    """Raises `DatasetError` where a folder or a listed path calls itself MURA v1.0."""
    for name in (tree.name, *names):
        if "mura-v1.0" in name.lower():
            raise DatasetError(_WITHDRAWN.format(tree=tree, sign="so it is named"))


def refuse_withdrawn_counts(tree: Path, rows: dict[str, list[Row]]) -> None:
    """Raises `DatasetError` where the counts of a copy are those of MURA v1.0 and cannot be those of v1.1."""
    if sum(map(len, rows.values())) == WITHDRAWN_IMAGES:
        raise DatasetError(_WITHDRAWN.format(tree=tree, sign=f"{WITHDRAWN_IMAGES:,} images"))
    found = count_rows(rows)["valid"]
    for part, studies in WITHDRAWN_VALID_STUDIES.items():
        if found[part].studies == studies > OFFICIAL_COUNTS["valid"][part].studies:
            raise DatasetError(_WITHDRAWN.format(tree=tree, sign=f"{studies} {part} studies in valid"))


def count_rows(rows: dict[str, list[Row]]) -> dict[str, dict[str, Count]]:
    """Counts the rows of train and valid by part."""
    counts: dict[str, dict[str, Count]] = {}
    for split in OFFICIAL_COUNTS:
        images = Counter((row["body_part"], row["label"]) for row in rows[split])
        studies = Counter(
            (part, label)
            for part, label, _ in {(row["body_part"], row["label"], row["study_id"]) for row in rows[split]}
        )
        counts[split] = {
            part: Count(images[part, 0], images[part, 1], studies[part, 0], studies[part, 1]) for part in BODY_PARTS
        }
    return counts


def compare_counts(counts: dict[str, dict[str, Count]], body_parts: Sequence[str]) -> str | None:
    """A table of a copy against the official counts; None where all of them agree.

    Args:
        counts: Of the copy.
        body_parts: What was asked for; other parts are not compared.
    """
    pairs = [
        (split, part, counts[split][part], official)
        for split, parts in OFFICIAL_COUNTS.items()
        for part, official in parts.items()
        if part in body_parts
    ]
    if all(found == official for *_, found, official in pairs):
        return None
    lines = [f"{'split':6}{'part':10}{'images':>8} of {'official':>8}{'studies':>10} of {'official':>8}"]
    for split, part, found, official in pairs:
        mark = "" if found == official else "   more than there are" if _more(found, official) else "   differs"
        lines.append(_line(split, part, found.images, official.images, found.studies, official.studies) + mark)
    sums = [
        sum(getattr(count, name) for count in column)
        for name in ("images", "studies")
        for column in ([pair[2] for pair in pairs], [pair[3] for pair in pairs])
    ]
    return "\n".join([*lines, _line("all", "", *sums)])


def _line(split: str, part: str, images: int, all_images: int, studies: int, all_studies: int) -> str:
    return f"{split:6}{part:10}{images:8} of {all_images:8}{studies:10} of {all_studies:8}"


def _more(found: Count, official: Count) -> bool:
    return any(one > other for one, other in zip(found, official, strict=True))
