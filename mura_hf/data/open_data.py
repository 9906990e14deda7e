"""What the loaders of datasets without official splits share: columns, tables, boxes, and splitting by patient."""

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import DatasetDict, Features, Image, Value
from PIL import Image as PillowImage

from ..errors import DatasetError
from .splits import BOXES, FEATURES, Row, SplitOptions, assign_patients, make_splits

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
"""Columns of FracAtlas and GRAZPEDWRI-DX. `label` belongs to the study; `fracture`, `hardware` and `cast` belong to
the view and are None if the dataset does not annotate them; `region` is the body region in words of the dataset;
`boxes` are those of findings that count as abnormal.
"""

ABNORMAL = ("fracture", "hardware")
VALID_SEED = 0  # valid is the same whatever the seed of a run, so that runs can be compared


def check_abnormal(abnormal: Sequence[str]) -> tuple[str, ...]:
    """Returns the findings that count as abnormal.

    Raises:
        ValueError: If there is none, or one is not in `ABNORMAL`.
    """
    if isinstance(abnormal, str) or not abnormal or set(abnormal) - set(ABNORMAL):
        raise ValueError(f"abnormal is {abnormal!r}, but must be a list of some of {', '.join(ABNORMAL)}")
    return tuple(abnormal)


def split_and_load(
    rows: Sequence[Row], options: SplitOptions, valid_fraction: float, features: Features, source: Path
) -> DatasetDict:
    """Assigns patients to `valid`, independent of the seed, then the remaining ones to the other splits.

    Raises:
        DatasetError: If there are too few patients.
    """
    if any(Path(row["image"]).suffix.lower() not in (".png", ".jpg", ".jpeg") for row in rows):
        # Pillow cannot open DICOM when a row is accessed, so the column hands out paths for `read_radiograph`.
        features = Features({**features, "image": Image(decode=False)})
    try:
        held_out = assign_patients(
            rows, SplitOptions({"valid": valid_fraction}, VALID_SEED, stratified=options.stratified)
        )
        splits = assign_patients([row for row in rows if held_out[row["patient_id"]] != "valid"], options)
    except ValueError as error:
        raise DatasetError(f"{source} is too small: {error}") from error
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        by_split.setdefault(splits.get(row["patient_id"], "valid"), []).append(row)
    return make_splits(by_split, features)


def check_studies(rows: Sequence[Row], source: object) -> None:
    """Checks that all views of a study have the same label and body part.

    Raises:
        DatasetError: If they differ.
    """
    studies: dict[str, Row] = {}
    for row in rows:
        first = studies.setdefault(row["study_id"], row)
        for column in ("label", "body_part"):
            if row[column] != first[column]:
                raise DatasetError(
                    f"{source}: study {row['study_id']} has {column} {first[column]} and {row[column]}, but a study "
                    "has one"
                )


def label_studies(rows: Sequence[Row], abnormal: Sequence[str]) -> list[Row]:
    """Adds `label`, 1 if any view of the study has an abnormal finding, and orders rows by study and view."""
    positive = {row["study_id"] for row in rows if any(row[finding] for finding in abnormal)}
    labelled = [{**row, "label": int(row["study_id"] in positive)} for row in rows]
    return sorted(labelled, key=lambda row: (row["study_id"], row["view"]))


def read_table(file: Path, columns: Sequence[str], what: str) -> list[dict[str, str]]:
    """Reads a CSV file with a header, with or without a byte-order mark.

    Args:
        file: Path.
        columns: Required columns.
        what: Description of the dataset for messages.

    Raises:
        DatasetError: If the file is missing, empty or not UTF-8, or lacks columns or values.
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
            raise DatasetError(f"{file}, line {number}: the number of values differs from that of the header")
    return rows


def read_flag(value: str, where: str) -> bool:
    """Returns whether a flag is "1"; "0" and an empty string are False.

    Raises:
        DatasetError: For any other value.
    """
    if value.strip() not in ("", "0", "1", "0.0", "1.0"):
        raise DatasetError(f"{where} is {value!r}, but must be 1, 0 or empty")
    return value.strip() in ("1", "1.0")


def read_number(value: str, where: str) -> str:
    """Returns a whole number as text, without the ".0" that some spreadsheets append.

    Raises:
        DatasetError: If it is not a number.
    """
    text = value.strip().removesuffix(".0")
    if not text.isdigit():
        raise DatasetError(f"{where} is {value!r}, but must be a number")
    return text


def read_yolo_boxes(file: Path, image: Path, classes: Sequence[int]) -> list[list[int]]:
    """Reads the boxes of a YOLO text file (`class cx cy w h`, relative to the image size).

    Args:
        file: The text file. A missing file means that there are no boxes.
        image: The image, whose header gives its size.
        classes: Classes to read.

    Returns:
        x0, y0, x1, y1 in pixels, x1 and y1 exclusive, expanded to whole pixels and clipped to the image.

    Raises:
        DatasetError: If a line is not a box, or the header of the image cannot be read.
    """
    try:
        lines = file.read_text().splitlines() if file.is_file() else []
        values = [[float(value) for value in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} is not a list of boxes ({error}); get a fresh copy") from error
    if any(len(box) != 5 or not all(-0.001 <= value <= 1.001 for value in box[1:]) for box in values):  # rounded
        raise DatasetError(f"{file} contains a line that is not `class cx cy w h` with values from 0 to 1")
    chosen = [box[1:] for box in values if box[0] in classes]
    if not chosen:
        return []
    try:
        with PillowImage.open(image) as opened:
            width, height = opened.size
    except OSError as error:
        raise DatasetError(f"{image} is not an image ({error}); get a fresh copy") from error
    boxes = []
    for cx, cy, w, h in chosen:
        x0, x1 = (cx - w / 2) * width, (cx + w / 2) * width
        y0, y1 = (cy - h / 2) * height, (cy + h / 2) * height
        left, top = max(0, int(x0)), max(0, int(y0))
        boxes.append([left, top, min(width, max(left + 1, -int(-x1 // 1))), min(height, max(top + 1, -int(-y1 // 1)))])
    return boxes


def find_images(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Returns stem -> files with that stem anywhere below a folder, without hidden files."""
    found: dict[str, list[Path]] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(suffixes):
                found.setdefault(Path(name).stem, []).append(Path(place) / name)
    return found


def find_one_image(images: dict[str, list[Path]], stem: str, table: Path) -> Path:
    """Returns the only image with a stem.

    Raises:
        DatasetError: If there is none, or more than one.
    """
    found = images.get(stem, [])
    if not found:
        raise DatasetError(
            f"{table} lists {stem}, but there is no such image; get a complete copy, or remove its line"
        )
    if len(found) > 1:
        raise DatasetError(f"{table} lists {stem}, which exists {len(found)} times: {', '.join(map(str, found))}")
    return found[0]


def report(messages: Sequence[str]) -> None:
    """Prints messages on stderr."""
    if messages:
        print("\n".join(messages), file=sys.stderr)


def report_differences(name: str, found: dict[str, int], published: dict[str, int], unlisted: Sequence[str]) -> None:
    """Prints a table if counts differ from the published ones, and the number of images that no table names."""
    messages = []
    if any(found[what] != count for what, count in published.items()):
        rows = [f"  {what:24}{found[what]:7} of {count:7}" for what, count in published.items()]
        messages = [f"This copy of {name} is not complete:", *rows]
    if unlisted:
        messages.append(
            f"{name}: {len(unlisted)} images that dataset.csv does not name are ignored, such as {unlisted[0]}."
        )
    report(messages)
