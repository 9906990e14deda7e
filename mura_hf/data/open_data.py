"""What loaders of data without official splits share: columns, boxes, cuts by patient."""

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Features, Image, Value
from PIL import Image as PillowImage

from ..errors import DatasetError
from .splits import BOXES, FEATURES, Cut, Row, cut_rows, make_splits

OPEN_FEATURES = Features(
    {
        **FEATURES,
        "boxes": BOXES,
        "fracture": Value("bool"),
        "hardware": Value("bool"),
        "cast": Value("bool"),
        "region": Value("string"),
    }
)
"""Columns of data with boxes. `label` is the study's; `fracture`, `hardware` and `cast` are the view's own, None where
nobody looked; `region` is what the data call it; `boxes` are those of what makes a view abnormal.
"""

ABNORMAL = ("fracture", "hardware")
VALID_SEED = 0  # valid is the same whatever seed a run has, so that runs can be compared


def check_abnormal(abnormal: Sequence[str]) -> tuple[str, ...]:
    """What counts as abnormal, of `ABNORMAL`.

    Raises:
        ValueError: If something is unknown, or there is nothing.
    """
    unknown = sorted(set(abnormal) - set(ABNORMAL)) if not isinstance(abnormal, str) else [abnormal]
    if unknown or not abnormal:
        raise ValueError(f"abnormal is {abnormal!r}: it must be a list of some of {', '.join(ABNORMAL)}")
    return tuple(abnormal)


def cut_and_load(rows: Sequence[Row], cut: Cut, valid_fraction: float, features: Features, where: Path) -> DatasetDict:
    """Cuts `valid` from all patients, always alike, then the other splits from the rest.

    Raises:
        DatasetError: If there are too few patients.
    """
    if any(Path(row["image"]).suffix.lower() not in (".png", ".jpg", ".jpeg") for row in rows):
        # Pillow would fail on DICOM where a row is looked at; the package's own reader takes paths anyway.
        features = Features({**features, "image": Image(decode=False)})
    try:
        held_out = cut_rows(rows, Cut({"valid": valid_fraction}, VALID_SEED, stratified=cut.stratified))
        left = [row for row in rows if held_out[row["patient_id"]] != "valid"]
        places = cut_rows(left, cut)
    except ValueError as error:
        raise DatasetError(f"{where} is too small: {error}") from error
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(places.get(row["patient_id"], "valid"), []).append(row)
    return make_splits(splits, features)


def read_table(file: Path, columns: Sequence[str], what: str) -> list[dict[str, str]]:
    """Rows of a CSV file with a header.

    Args:
        file: Path; a byte-order mark is taken away.
        columns: Which there must be.
        what: What the folder should be, for messages.

    Raises:
        DatasetError: If the file is missing, empty, no UTF-8, or lacks columns.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file} cannot be read ({error}); give the folder of {what}") from error
    absent = [name for name in columns if name not in (reader.fieldnames or [])]
    if absent:
        raise DatasetError(f"{file} lacks the columns {', '.join(absent)}; give the folder of {what}")
    if not rows:
        raise DatasetError(f"{file} has no rows; give the folder of {what}")
    for number, row in enumerate(rows, 2):
        if None in row or any(row[name] is None for name in columns):
            raise DatasetError(f"{file}, line {number}: it has not as many values as the header has names")
    return rows


def read_flag(value: str, where: str) -> bool:
    """Whether a flag is set: "1" or "0", or nothing.

    Raises:
        DatasetError: If it is anything else.
    """
    if value.strip() not in ("", "0", "1", "0.0", "1.0"):
        raise DatasetError(f"{where} is {value!r}, but must be 1, 0 or nothing")
    return value.strip() in ("1", "1.0")


def read_yolo_boxes(file: Path, picture: Path, classes: Sequence[int]) -> list[list[int]]:
    """Boxes of a YOLO text file (`class cx cy w h`, in shares of the picture) in pixels.

    Args:
        file: The text file; where it is missing there are no boxes.
        picture: Whose header says how many pixels there are.
        classes: Which to read.

    Raises:
        DatasetError: If a line is no box, or the picture's header cannot be read.
    """
    try:
        lines = file.read_text().splitlines() if file.is_file() else []
        values = [[float(value) for value in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} is no list of boxes ({error}); get a fresh copy") from error
    # A hair over the edge is rounding; what lies over it is cut off below.
    if any(len(box) != 5 or not all(-0.001 <= value <= 1.001 for value in box[1:]) for box in values):
        raise DatasetError(f"{file} holds a line that is not `class cx cy w h` in shares of the picture")
    chosen = [box[1:] for box in values if box[0] in classes]
    if not chosen:
        return []
    try:
        with PillowImage.open(picture) as image:
            width, height = image.size
    except OSError as error:
        raise DatasetError(f"{picture} is no picture ({error}); get a fresh copy") from error
    boxes = []
    for middle, centre, across, down in chosen:
        x0, x1 = (middle - across / 2) * width, (middle + across / 2) * width
        y0, y1 = (centre - down / 2) * height, (centre + down / 2) * height
        left, top = max(0, int(x0)), max(0, int(y0))
        # Outwards to whole pixels, one at least.
        boxes.append([left, top, min(width, max(left + 1, -int(-x1 // 1))), min(height, max(top + 1, -int(-y1 // 1)))])
    return boxes


def tell(lines: Sequence[str]) -> None:
    """Says on stderr what is not as it should be."""
    if lines:
        print("\n".join(lines), file=sys.stderr)


def compare(name: str, found: dict[str, int], published: dict[str, int]) -> list[str]:
    """A table of what was found against what was published, as lines; nothing where all agree."""
    if all(found[what] == count for what, count in published.items()):
        return []
    rows = [f"  {what:24}{found[what]:7} of {count:7}" for what, count in published.items()]
    return [f"This is not the whole of {name}:", *rows]


def list_pictures(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Stem -> the pictures of that name anywhere below a folder, hidden files left out."""
    found: dict[str, list[Path]] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(tuple(suffixes)):
                found.setdefault(Path(name).stem, []).append(Path(place) / name)
    return found


def only_picture(pictures: dict[str, list[Path]], stem: str, where: Path) -> Path:
    """The one picture of a stem.

    Raises:
        DatasetError: If there is none, or more than one.
    """
    found = pictures.get(stem, [])
    if len(found) == 1:
        return found[0]
    if not found:
        raise DatasetError(
            f"{where} lists {stem}, but no such picture is there; get a whole copy, or take its line out"
        )
    raise DatasetError(f"{where} lists {stem}, which is there {len(found)} times: {', '.join(map(str, found))}")


def study_labels(rows: Sequence[Row], found: Sequence[bool]) -> list[Row]:
    """Gives every view its study's label: abnormal where a view of it is. Rows come back by study and view."""
    abnormal: dict[str, bool] = {}
    for row, one in zip(rows, found, strict=True):
        abnormal[row["study_id"]] = abnormal.get(row["study_id"], False) or one
    labelled: list[dict[str, Any]] = [{**row, "label": int(abnormal[row["study_id"]])} for row in rows]
    return sorted(labelled, key=lambda row: (row["study_id"], row["view"]))
