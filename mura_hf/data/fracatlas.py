"""`load_fracatlas` loads a local copy of FracAtlas as a `DatasetDict`."""

import os
from collections.abc import Sequence
from pathlib import Path

from datasets import DatasetDict

from ..errors import DatasetError
from .open_data import (
    OPEN_FEATURES,
    check_abnormal,
    find_images,
    find_one_image,
    label_studies,
    read_flag,
    read_number,
    read_table,
    read_yolo_boxes,
    report_differences,
    split_and_load,
)
from .splits import Row, SplitOptions

REGIONS = ("hand", "shoulder", "hip", "leg")
REGION_GROUPS = {**{region: (region,) for region in REGIONS}, "upper limb": ("hand", "shoulder")}
"""Groups for which figures are reported separately. An image that shows several regions counts in each."""

PUBLISHED = {"images": 4083, "fractured": 717, "boxes": 922}
"""Counts of the whole dataset (Abedeen et al., Scientific Data 10, 521, 2023)."""

_BLOCK = 20  # consecutive images that may belong to one patient
_COLUMNS = ("image_id", *REGIONS, "mixed", "hardware", "multiscan", "fractured", "fracture_count")
_FRACTURE_CLASS = 0  # in the YOLO files


def load_fracatlas(
    root: str | os.PathLike[str],
    regions: Sequence[str] | None = None,
    dev_fraction: float = 0.08,
    calib_fraction: float = 0.08,
    valid_fraction: float = 0.2,
    seed: int = 0,
    *,
    abnormal: Sequence[str] = ("fracture",),
    multiscan: bool = True,
    fold: int | None = None,
    n_folds: int = 5,
) -> DatasetDict:
    """Loads FracAtlas: radiographs of hand, shoulder, hip and leg with fracture labels and boxes. Decodes no file.

    Source: Abedeen et al., Scientific Data 10, 521 (2023), CC BY 4.0.

    FracAtlas has no patient ids. Consecutive images may belong to one patient, so blocks of twenty image numbers serve
    as patients: `patient_id` has the form "block0007", and every image is a study of its own. `body_part` is shoulder
    for images of shoulders alone and None otherwise, since "hand" means anything from a finger to the whole arm.
    `region` is the region in words of FracAtlas; several are joined by "+". There are few blocks, so the shares of
    regions and labels may differ between splits by some percentage points. If a copy lacks some of the published 4,083
    images, a table on stderr says so.

    Args:
        root: The folder with dataset.csv, images/ and Annotations/YOLO/.
        regions: Some of hand, shoulder, hip and leg; an image is kept if it shows one of them. Defaults to all.
        dev_fraction: Fraction of the blocks outside valid for `dev`.
        calib_fraction: Fraction of the blocks outside valid for `calib`.
        valid_fraction: Fraction of all blocks for `valid`, independent of the seed.
        seed: Seed of the splits.
        abnormal: Findings that count as abnormal. MURA also counts "hardware".
        multiscan: Whether to keep images that show several projections.
        fold: As in `load_mura`.
        n_folds: As in `load_mura`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `OPEN_FEATURES`.

    Raises:
        DatasetError: If it is not FracAtlas, a listed image is missing, or table, folders and boxes contradict each
            other.
        ValueError: If a region or a finding is unknown, or the fractions are invalid.
    """
    unknown = [regions] if isinstance(regions, str) else sorted(set(regions or ()) - set(REGIONS))
    if unknown or (regions is not None and not regions):
        raise ValueError(f"unknown regions {unknown}: give a list of some of {', '.join(REGIONS)}")
    abnormal = check_abnormal(abnormal)
    options = SplitOptions({"dev": dev_fraction, "calib": calib_fraction}, seed, fold=fold, n_folds=n_folds)
    root = Path(root)
    table = root / "dataset.csv"
    images = find_images(root / "images", (".jpg", ".jpeg", ".png"))
    rows: dict[str, Row] = {}
    for record in read_table(table, _COLUMNS, "FracAtlas"):
        row = _make_row(record, root, find_one_image(images, Path(record["image_id"]).stem, table))
        if row["study_id"] in rows:
            raise DatasetError(f"{table} lists {record['image_id']} twice; get a fresh copy")
        rows[row["study_id"]] = row
    found = {
        "images": len(rows),
        "fractured": sum(row["fracture"] for row in rows.values()),
        "boxes": sum(len(row["boxes"]) for row in rows.values()),
    }
    report_differences("FracAtlas", found, PUBLISHED, sorted(set(images) - set(rows)))
    chosen = [
        row if "fracture" in abnormal else {**row, "boxes": []}
        for row in label_studies(list(rows.values()), abnormal)
        if (regions is None or set(regions) & set(row["region"].split("+"))) and (multiscan or not row["multiscan"])
    ]
    return split_and_load(chosen, options, valid_fraction, OPEN_FEATURES, root)


def _make_row(record: dict[str, str], root: Path, image: Path) -> Row:
    name = record["image_id"]
    flags = {column: read_flag(record[column], f"{name}: {column}") for column in _COLUMNS[1:-1]}
    number = image.stem.removeprefix("IMG")
    if not number.isdigit():
        raise DatasetError(f"{name} in {root / 'dataset.csv'} is not a name like IMG0000019.jpg; get a fresh copy")
    if flags["fractured"] != (image.parent.name == "Fractured"):
        raise DatasetError(
            f"{image} is in the wrong folder: according to dataset.csv, fractured is {record['fractured']}"
        )
    boxes = read_yolo_boxes(root / "Annotations" / "YOLO" / f"{image.stem}.txt", image, [_FRACTURE_CLASS])
    count = read_number(record["fracture_count"].strip() or "0", f"{name}: fracture_count")
    if len(boxes) != int(count):
        raise DatasetError(f"{name} has {len(boxes)} boxes, but fracture_count is {count}; get a fresh copy")
    shown = [region for region in REGIONS if flags[region]]
    return {
        "image": str(image),
        "body_part": "shoulder" if shown == ["shoulder"] else None,
        "patient_id": f"block{int(number) // _BLOCK:04d}",
        "study_id": image.stem,
        "view": 1,
        "boxes": boxes,
        "fracture": flags["fractured"],
        "hardware": flags["hardware"],
        "cast": None,
        "region": "+".join(shown) or "unknown",
        "multiscan": flags["multiscan"],
    }
