"""`load_fracatlas` and `load_grazpedwri` load local copies of open datasets, with boxes, as a `DatasetDict`."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Features, Value
from PIL import Image as PillowImage

from ..common import LOWER_LIMB
from ..errors import DatasetError
from .duplicates import group_duplicates
from .splits import (
    BOXES,
    FEATURES,
    Row,
    SplitOptions,
    assign_patients,
    list_files,
    make_splits,
    number_views,
    read_table,
    report,
)

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

UPPER_LIMB = ("hand", "shoulder")
REGIONS = (*UPPER_LIMB, *LOWER_LIMB)
REGION_GROUPS = {**{region: (region,) for region in REGIONS}, "upper limb": UPPER_LIMB}
"""Groups of FracAtlas for which figures are reported separately. An image with several regions counts in each."""

_ABNORMAL = ("fracture", "hardware")
_TABLE = "dataset.csv"

# Abedeen et al., Scientific Data 10, 521 (2023)
_FRACATLAS_COUNTS = {"images": 4083, "fractured": 717, "boxes": 922}
_FRACATLAS_COLUMNS = ("image_id", *REGIONS, "mixed", "hardware", "multiscan", "fractured", "fracture_count")
_FRACATLAS_CLASS = 0  # of fractures in the YOLO files
_BLOCK = 20  # consecutive images that may belong to one patient

# Nagy et al., Scientific Data 9, 222 (2022)
_GRAZPEDWRI_COUNTS = {"images": 20_327, "patients": 6_091, "fractured": 13_550}
_GRAZPEDWRI_COLUMNS = ("filestem", "patient_id", "study_number", "cast", "fracture_visible", "metal")
_GRAZPEDWRI_CLASSES = {"fracture": 3, "hardware": 4}  # of nine: 3 is "fracture", 4 is "metal"


def load_fracatlas(
    root: str | os.PathLike[str],
    regions: Sequence[str] | None = None,
    *,
    abnormal: Sequence[str] = ("fracture",),
    **split_options: Any,
) -> DatasetDict:
    """Loads FracAtlas: radiographs of hand, shoulder, hip and leg with fracture labels and boxes.

    Source: Abedeen et al., Scientific Data 10, 521 (2023), CC BY 4.0.

    FracAtlas has no patient ids. Consecutive images may belong to one patient, so blocks of twenty image numbers serve
    as patients: `patient_id` has the form "block0007", and every image is a study of its own. Some images exist twice
    under different numbers. Blocks that share near-duplicates become one patient, named like the first of them. To
    find them, files are decoded once, as thumbnails that are kept in `home_folder()`. `body_part` is shoulder for
    images of shoulders alone and None otherwise, since "hand" means anything from a finger to the whole arm. `region`
    is the region in words of FracAtlas; several are joined by "+". There are few blocks, so the shares of regions and
    labels may differ between splits by some percentage points. If a copy lacks some of the published 4,083 images, a
    table on stderr says so.

    Args:
        root: The folder with dataset.csv, images/ and Annotations/YOLO/.
        regions: Some of hand, shoulder, hip and leg; an image is kept if it shows one of them. Defaults to all.
        abnormal: Findings that count as abnormal. MURA also counts "hardware".
        **split_options: See `SplitOptions`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `OPEN_FEATURES`.

    Raises:
        DatasetError: If it is not FracAtlas, a listed image is missing, or table, folders and boxes contradict each
            other.
        ValueError: If a region or a finding is unknown, or an option is invalid.
    """
    unknown = [regions] if isinstance(regions, str) else sorted(set(regions or ()) - set(REGIONS))
    if unknown or (regions is not None and not regions):
        raise ValueError(f"unknown regions {unknown}: give a list of some of {', '.join(REGIONS)}")
    abnormal, options, root = _check_abnormal(abnormal), SplitOptions(**split_options), Path(root)
    images = _find_files(root / "images", (".jpg", ".jpeg", ".png"))

    def make_row(record: dict[str, str], image: Path) -> Row:
        name = record["image_id"]
        flags = {column: _read_flag(record[column], f"{name}: {column}") for column in _FRACATLAS_COLUMNS[1:-1]}
        number = image.stem.removeprefix("IMG")
        if not number.isdigit():
            raise DatasetError(f"{name} in {root / _TABLE} is not a name like IMG0000019.jpg; get a fresh copy")
        if flags["fractured"] != (image.parent.name == "Fractured"):
            raise DatasetError(
                f"{image} is in the wrong folder: according to {_TABLE}, fractured is {record['fractured']}"
            )
        boxes = _read_yolo_boxes(root / "Annotations" / "YOLO" / f"{image.stem}.txt", image, [_FRACATLAS_CLASS])
        count = _read_number(record["fracture_count"].strip() or "0", f"{name}: fracture_count")
        if len(boxes) != int(count):
            raise DatasetError(f"{name} has {len(boxes)} boxes, but fracture_count is {count}; get a fresh copy")
        shown = [region for region in REGIONS if flags[region]]
        return {
            "body_part": "shoulder" if shown == ["shoulder"] else None,
            "patient_id": f"block{int(number) // _BLOCK:04d}",
            "study_id": image.stem,
            "boxes": boxes,
            "fracture": flags["fractured"],
            "hardware": flags["hardware"],
            "cast": None,
            "region": "+".join(shown) or "unknown",
        }

    rows = _read_rows(root, "FracAtlas", _FRACATLAS_COLUMNS, _FRACATLAS_COUNTS, images, make_row, abnormal)
    if options.group_duplicates:
        rows = group_duplicates(rows, "FracAtlas")
    chosen = [
        row if "fracture" in abnormal else {**row, "boxes": []}
        for row in rows
        if regions is None or set(regions) & set(row["region"].split("+"))
    ]
    return make_splits(chosen, assign_patients(chosen, options, root), OPEN_FEATURES)


def load_grazpedwri(
    root: str | os.PathLike[str], *, abnormal: Sequence[str] = ("fracture",), **split_options: Any
) -> DatasetDict:
    """Loads GRAZPEDWRI-DX: radiographs of children's wrists with boxes. Decodes no file.

    Source: Nagy et al., Scientific Data 9, 222 (2022), CC BY 4.0.

    Images and the YOLO text files of their boxes lie in several folders and are found by their stem. A study is
    abnormal if one of its views is, and all its views get this label, as in MURA; `fracture` and `hardware` belong to
    the view. If a copy lacks some of the published 20,327 images, a table on stderr says so.

    Args:
        root: The folder with dataset.csv. Images and boxes lie anywhere below it.
        abnormal: Findings that count as abnormal. MURA also counts "hardware".
        **split_options: See `SplitOptions`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `OPEN_FEATURES`; `body_part` is wrist.

    Raises:
        DatasetError: If it is not GRAZPEDWRI-DX, or a listed image is missing or exists twice.
        ValueError: If a finding is unknown, or an option is invalid.
    """
    abnormal, options, root = _check_abnormal(abnormal), SplitOptions(**split_options), Path(root)
    images, box_files = _find_files(root, (".png",)), _find_files(root, (".txt",))
    classes = [_GRAZPEDWRI_CLASSES[finding] for finding in abnormal]

    def make_row(record: dict[str, str], image: Path) -> Row:
        stem = image.stem
        flags = {name: _read_flag(record[name], f"{stem}: {name}") for name in ("cast", "fracture_visible", "metal")}
        patient, study = (_read_number(record[name], f"{stem}: {name}") for name in ("patient_id", "study_number"))
        files = box_files.get(stem, [])
        if len(files) > 1:
            raise DatasetError(f"{stem} has {len(files)} lists of boxes: {', '.join(map(str, files))}")
        return {
            "body_part": "wrist",
            "patient_id": patient,
            "study_id": f"{patient}/{study}",
            "boxes": _read_yolo_boxes(files[0], image, classes) if files else [],
            "fracture": flags["fracture_visible"],
            "hardware": flags["metal"],
            "cast": flags["cast"],
            "region": "wrist",
        }

    rows = _read_rows(root, "GRAZPEDWRI-DX", _GRAZPEDWRI_COLUMNS, _GRAZPEDWRI_COUNTS, images, make_row, abnormal)
    return make_splits(rows, assign_patients(rows, options, root), OPEN_FEATURES)


def _check_abnormal(abnormal: Sequence[str]) -> tuple[str, ...]:
    if isinstance(abnormal, str) or not abnormal or set(abnormal) - set(_ABNORMAL):
        raise ValueError(f"abnormal is {abnormal!r}, but must be a list of some of {', '.join(_ABNORMAL)}")
    return tuple(abnormal)


def _read_rows(
    root: Path,
    name: str,
    columns: Sequence[str],
    published: dict[str, int],
    images: dict[str, list[Path]],
    make_row: Callable[[dict[str, str], Path], Row],
    abnormal: Sequence[str],
) -> list[Row]:
    """Makes a row of each line of dataset.csv, by study and view, and reports differences from the publication.

    Args:
        root: Folder of the dataset.
        name: Name of the dataset.
        columns: Required columns. The first one names the image.
        published: Counts of the whole dataset.
        images: Stem -> images with this stem.
        make_row: Returns the row of a line and its image, without image, view and label.
        abnormal: Findings that make all views of a study abnormal.
    """
    table = root / _TABLE
    rows: dict[str, Row] = {}
    records = sorted(read_table(table, columns, name).values(), key=lambda record: record[columns[0]])
    stems = [Path(record[columns[0]]).stem for record in records]
    missing = [stem for stem in stems if stem not in images]
    if missing:
        raise DatasetError(
            f"{table} lists images that do not exist ({len(missing)}): {list_files(missing)}; get a complete copy, or "
            "remove their lines"
        )
    for stem, record in zip(stems, records, strict=True):
        if stem in rows:
            raise DatasetError(f"{table} lists {stem} twice; get a fresh copy")
        found = images[stem]
        if len(found) > 1:
            raise DatasetError(f"{table} lists {stem}, which exists {len(found)} times: {', '.join(map(str, found))}")
        rows[stem] = {"image": str(found[0]), **make_row(record, found[0])}
    number_views(rows.values())
    counts = Counter(images=len(rows), patients=len({row["patient_id"] for row in rows.values()}))
    for row in rows.values():
        counts.update(fractured=row["fracture"], boxes=len(row["boxes"]))
    messages = []
    if any(counts[what] != count for what, count in published.items()):
        lines = [f"  {what:24}{counts[what]:7} of {count:7}" for what, count in published.items()]
        messages = [f"This copy of {name} is not complete:", *lines]
    unlisted = sorted(set(images) - set(rows))
    if unlisted:
        messages.append(
            f"{name}: images that {_TABLE} does not name are ignored: {len(unlisted)}, such as {unlisted[0]}."
        )
    report(messages)
    positive = {row["study_id"] for row in rows.values() if any(row[finding] for finding in abnormal)}
    labelled = [{**row, "label": int(row["study_id"] in positive)} for row in rows.values()]
    return sorted(labelled, key=lambda row: (row["study_id"], row["view"]))


def _read_flag(value: str, where: str) -> bool:
    if value.strip() not in ("", "0", "1", "0.0", "1.0"):
        raise DatasetError(f"{where} is {value!r}, but must be 1, 0 or empty")
    return value.strip() in ("1", "1.0")


def _read_number(value: str, where: str) -> str:
    """Returns a whole number as text, without the ".0" that some spreadsheets append."""
    text = value.strip().removesuffix(".0")
    if not text.isdigit():
        raise DatasetError(f"{where} is {value!r}, but must be a number")
    return text


def _read_yolo_boxes(file: Path, image: Path, classes: Sequence[int]) -> list[list[int]]:
    """Reads the boxes of some classes from a YOLO text file (`class cx cy w h`, relative to the image size).

    A missing file means that there are no boxes.

    Returns:
        x0, y0, x1, y1 in pixels, x1 and y1 exclusive, expanded to whole pixels and clipped to the image.
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


def _find_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Returns stem -> files with that stem anywhere below a folder, without hidden files."""
    found: dict[str, list[Path]] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(suffixes):
                found.setdefault(Path(name).stem, []).append(Path(place) / name)
    return found
