"""The official MURA release: counts of v1.1, detection of the withdrawn v1.0, quarantine manifest of a copy."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..common import BODY_PARTS, escape_formulas, read_csv, replace_file
from ..errors import DatasetError
from .splits import Row


class Count(NamedTuple):
    """Images and studies of one body part in one split."""

    normal_images: int
    abnormal_images: int
    normal_studies: int
    abnormal_studies: int

    @property
    def images(self) -> int:
        """Images of both labels."""
        return sum(self[:2])

    @property
    def studies(self) -> int:
        """Studies of both labels."""
        return sum(self[2:])


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
"""Counts of MURA v1.1 in its four CSV files: 36,808 + 3,197 images of 13,457 + 1,199 studies."""

OFFICIAL_PATIENTS = {"train": 11_184, "valid": 783}

WITHDRAWN_VALID_STUDIES = dict(zip(BODY_PARTS, (160, 175, 137, 167, 136, 195, 238), strict=True))
"""Studies in `valid` of MURA v1.0, by which a copy of it is recognised."""

WITHDRAWN_IMAGES = 40_895
"""Images of MURA v1.0."""


def refuse_withdrawn_name(tree: Path, names: Iterable[str] = ()) -> None:
    """Raises `DatasetError` if the folder or a listed path is named MURA v1.0."""
    if any("mura-v1.0" in name.lower() for name in (tree.name, *names)):
        raise _withdrawn(tree, "according to its name")


def refuse_withdrawn_counts(tree: Path, rows: dict[str, list[Row]]) -> None:
    """Raises `DatasetError` if the counts of a copy are those of MURA v1.0 and cannot be those of v1.1."""
    if sum(map(len, rows.values())) == WITHDRAWN_IMAGES:
        raise _withdrawn(tree, f"it lists {WITHDRAWN_IMAGES:,} images")
    found = count_rows(rows)["valid"]
    for part, studies in WITHDRAWN_VALID_STUDIES.items():
        if found[part].studies == studies > OFFICIAL_COUNTS["valid"][part].studies:
            raise _withdrawn(tree, f"it has {studies} {part} studies in valid")


def _withdrawn(tree: Path, sign: str) -> DatasetError:
    return DatasetError(
        f"{tree} is MURA v1.0 ({sign}), which accidentally contained data of patients and was withdrawn: delete it, "
        "and get v1.1 from Stanford"
    )


def count_rows(rows: dict[str, list[Row]]) -> dict[str, dict[str, Count]]:
    """Counts the rows of train and valid by body part."""
    counts: dict[str, dict[str, Count]] = {}
    for split in OFFICIAL_COUNTS:
        images = Counter((row["body_part"], row["label"]) for row in rows[split])
        distinct = {(row["body_part"], row["label"], row["study_id"]) for row in rows[split]}
        studies = Counter((part, label) for part, label, _ in distinct)
        counts[split] = {
            part: Count(images[part, 0], images[part, 1], studies[part, 0], studies[part, 1]) for part in BODY_PARTS
        }
    return counts


def compare_counts(counts: dict[str, dict[str, Count]], body_parts: Sequence[str]) -> str | None:
    """Returns a table of the counts of a copy beside the official ones, or None if all of `body_parts` agree."""
    pairs = [
        (split, part, counts[split][part], official)
        for split, parts in OFFICIAL_COUNTS.items()
        for part, official in parts.items()
        if part in body_parts
    ]
    if all(found == official for *_, found, official in pairs):
        return None

    lines = [f"{'split':6}{'part':10}{'images':>8} of {'official':>8}{'studies':>10} of {'official':>8}"]
    totals = [Count(*map(sum, zip(*(pair[place] for pair in pairs), strict=True))) for place in (2, 3)]
    for split, part, found, official in (*pairs, ("all", "", totals[0], totals[1])):
        more = any(one > other for one, other in zip(found, official, strict=True))
        note = "" if not part or found == official else "   more than the official number" if more else "   differs"
        images, studies = f"{found.images:8} of {official.images:8}", f"{found.studies:10} of {official.studies:8}"
        lines.append(f"{split:6}{part:10}{images}{studies}{note}")
    return "\n".join(lines)


QUARANTINE_FILE = "quarantine.csv"
"""Lies beside the lists of MURA. Columns: path (from train or valid on) and reason."""

_HEADER = ["path", "reason"]


def read_quarantine(tree: Path) -> dict[str, str]:
    """Reads the quarantine manifest of a copy: path from the split on -> reason. Empty if there is no manifest.

    A damaged manifest is an error, since ignoring it would let damaged files in.
    """
    file = tree / QUARANTINE_FILE
    if not file.exists():
        return {}
    try:
        header, *rows = [row for _, row in read_csv(file.read_bytes())] or [[]]
        if header != _HEADER or any(len(row) != len(_HEADER) for row in rows):
            raise ValueError("expected the columns path and reason")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{file} cannot be used ({error}); write it again with scripts/verify_mura.py from a checkout of the "
            "repository"
        ) from error
    return {path.removeprefix("MURA-v1.1/"): reason for path, reason in rows}


def write_quarantine(tree: Path, reasons: dict[str, str]) -> None:
    """Replaces the quarantine manifest of a copy atomically, or removes it if there are no reasons."""
    file = tree / QUARANTINE_FILE
    text = io.StringIO()
    rows = [(path, escape_formulas(reason)) for path, reason in sorted(reasons.items())]  # paths are read back
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([_HEADER, *rows])
    try:
        if reasons:
            replace_file(file, text.getvalue().encode())
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{file} cannot be written ({error.strerror}); make the folder writable") from error
