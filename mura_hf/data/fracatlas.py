"""`load_fracatlas`: FracAtlas on disk as a `DatasetDict`."""

import os
from collections.abc import Sequence
from pathlib import Path

from datasets import DatasetDict

from ..errors import DatasetError
from .open_data import (
    OPEN_FEATURES,
    check_abnormal,
    compare,
    cut_and_load,
    list_pictures,
    only_picture,
    read_flag,
    read_table,
    read_yolo_boxes,
    study_labels,
    tell,
)
from .splits import Cut, Row

REGIONS = ("hand", "shoulder", "hip", "leg")
REGION_GROUPS = {**{region: (region,) for region in REGIONS}, "upper limb": ("hand", "shoulder")}
"""What figures are told apart by; a film that shows several regions counts in each."""

PUBLISHED = {"images": 4083, "fractured": 717, "boxes": 922}
"""Counts of the whole dataset (Abedeen et al., Scientific Data 10, 521, 2023)."""

_BLOCK = 20  # numbers that follow each other may be one patient
_COLUMNS = ("image_id", *REGIONS, "mixed", "hardware", "multiscan", "fractured", "fracture_count")
_FRACTURE = 0  # class in the boxes' files


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
    """Loads FracAtlas (Abedeen et al., Scientific Data 10, 521, 2023, CC BY 4.0): real films of hand, shoulder, hip
    and leg, fractured or not, with boxes. Decodes none.

    There are no patient ids. Numbers that follow each other may be one patient, so blocks of twenty numbers stand in
    for patients: `patient_id` is like "block0007", and every image is a study of its own. `body_part` is shoulder for
    shoulders alone and None else, since "hand" means anything from finger to whole arm; `region` holds FracAtlas'
    own word, several joined by "+". There are few blocks, so shares of regions and labels may differ between splits by
    some points. Where a copy lacks images of the published 4,083, a table says so on stderr.

    Args:
        root: The folder with dataset.csv, images/ and Annotations/YOLO/.
        regions: Some of hand, shoulder, hip, leg, kept where one of them shows; all where None.
        dev_fraction: Share of the blocks outside valid for `dev`.
        calib_fraction: Likewise for `calib`.
        valid_fraction: Share of all blocks for `valid`, drawn alike whatever the seed.
        seed: Of the cut.
        abnormal: What counts as abnormal; MURA would count "hardware" beside "fracture".
        multiscan: Whether to keep images that show several projections in one picture.
        fold: As in `load_mura`.
        n_folds: As in `load_mura`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `OPEN_FEATURES`.

    Raises:
        DatasetError: If it is no FracAtlas, a listed image is missing, or table, folders and boxes contradict each
            other.
        ValueError: If a region or what counts as abnormal is unknown, or the fractions cannot be.
    """
    unknown = [regions] if isinstance(regions, str) else sorted(set(regions or ()) - set(REGIONS))
    if unknown or (regions is not None and not regions):
        raise ValueError(f"unknown regions {unknown}: give a list of some of {', '.join(REGIONS)}")
    kinds = check_abnormal(abnormal)
    cut = Cut({"dev": dev_fraction, "calib": calib_fraction}, seed, fold=fold, n_folds=n_folds)
    root = Path(root)
    table = root / "dataset.csv"
    pictures = list_pictures(root / "images", (".jpg", ".jpeg", ".png"))
    rows, found, n_boxes = [], [], 0
    seen: set[str] = set()
    for record in read_table(table, _COLUMNS, "FracAtlas"):
        row = _make_row(record, root, only_picture(pictures, Path(record["image_id"]).stem, table), kinds)
        if row["study_id"] in seen:
            raise DatasetError(f"{table} lists {record['image_id']} twice; get a fresh copy")
        seen.add(row["study_id"])
        n_boxes += len(row["boxes"])
        rows.append(row)
        found.append((row["fracture"] and "fracture" in kinds) or (row["hardware"] and "hardware" in kinds))
    fractured = sum(row["fracture"] for row in rows)
    tell(compare("FracAtlas", {"images": len(rows), "fractured": fractured, "boxes": n_boxes}, PUBLISHED))
    unlisted = sorted(set(pictures) - seen)
    if unlisted:
        tell([f"{root}: {len(unlisted)} pictures that dataset.csv does not name are not read, such as {unlisted[0]}."])
    rows = [
        row
        for row in study_labels(rows, found)
        if (regions is None or set(regions) & set(row["region"].split("+"))) and (multiscan or not row["multiscan"])
    ]
    return cut_and_load(rows, cut, valid_fraction, OPEN_FEATURES, root)


def _make_row(record: dict[str, str], root: Path, picture: Path, kinds: Sequence[str]) -> Row:
    name = record["image_id"]
    flags = {column: read_flag(record[column], f"{name}, {column}") for column in _COLUMNS[1:-1]}
    digits = picture.stem.removeprefix("IMG")
    if not digits.isdigit():
        raise DatasetError(f"{name} in {root / 'dataset.csv'} is no name like IMG0000019.jpg; get a fresh copy")
    if flags["fractured"] != (picture.parent.name == "Fractured"):
        raise DatasetError(f"{picture} lies in the wrong folder: dataset.csv says fractured = {record['fractured']}")
    boxes = read_yolo_boxes(root / "Annotations" / "YOLO" / f"{picture.stem}.txt", picture, [_FRACTURE])
    count = record["fracture_count"].strip().removesuffix(".0") or "0"
    if not count.isdigit():
        raise DatasetError(f"{name}, fracture_count is {record['fracture_count']!r}, but must be a number")
    if len(boxes) != int(count):
        raise DatasetError(f"{name} has {len(boxes)} boxes, but fracture_count {count}; get a fresh copy")
    shown = [region for region in REGIONS if flags[region]]
    return {
        "image": str(picture),
        "body_part": "shoulder" if shown == ["shoulder"] else None,
        "patient_id": f"block{int(digits) // _BLOCK:04d}",
        "study_id": picture.stem,
        "view": 1,
        "boxes": boxes if "fracture" in kinds else [],
        "fracture": flags["fractured"],
        "hardware": flags["hardware"],
        "cast": None,
        "region": "+".join(shown) or "unknown",
        "multiscan": flags["multiscan"],
    }
