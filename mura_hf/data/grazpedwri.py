"""`load_grazpedwri`: GRAZPEDWRI-DX on disk as a `DatasetDict`."""

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

CLASSES = (
    "boneanomaly", "bonelesion", "foreignbody", "fracture", "metal",
    "periostealreaction", "pronatorsign", "softtissue", "text",
)  # fmt: skip
"""Classes of the boxes, in the order of their numbers."""

PUBLISHED = {"images": 20_327, "patients": 6_091, "fracture_visible": 13_550}
"""Counts of the whole dataset (Nagy et al., Scientific Data 9, 222, 2022)."""

_COLUMNS = ("filestem", "patient_id", "study_number", "cast", "fracture_visible", "metal")
_BOXES_OF = {"fracture": CLASSES.index("fracture"), "hardware": CLASSES.index("metal")}


def load_grazpedwri(
    root: str | os.PathLike[str],
    dev_fraction: float = 0.08,
    calib_fraction: float = 0.08,
    valid_fraction: float = 0.2,
    seed: int = 0,
    *,
    abnormal: Sequence[str] = ("fracture",),
    fold: int | None = None,
    n_folds: int = 5,
) -> DatasetDict:
    """Loads GRAZPEDWRI-DX (Nagy et al., Scientific Data 9, 222, 2022, CC BY 4.0): wrists of children, with boxes.
    Decodes none.

    Images lie in several folders and are found by their stem, as are the YOLO text files of the boxes. A study is
    abnormal where one of its views is, and hands its label to all of them, as in MURA; `fracture` and `hardware`
    are the view's own. Cut by patient. Where a copy lacks images of the published 20,327, a table says so on stderr.

    Args:
        root: The folder with dataset.csv; images and boxes lie anywhere below it.
        dev_fraction: Share of the patients outside valid for `dev`.
        calib_fraction: Likewise for `calib`.
        valid_fraction: Share of all patients for `valid`, drawn alike whatever the seed.
        seed: Of the cut.
        abnormal: What counts as abnormal; MURA would count "hardware" beside "fracture".
        fold: As in `load_mura`.
        n_folds: As in `load_mura`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `OPEN_FEATURES`; `body_part` is wrist.

    Raises:
        DatasetError: If it is no GRAZPEDWRI-DX, or a listed image is missing or there twice.
        ValueError: If what counts as abnormal is unknown, or the fractions cannot be.
    """
    kinds = check_abnormal(abnormal)
    cut = Cut({"dev": dev_fraction, "calib": calib_fraction}, seed, fold=fold, n_folds=n_folds)
    root = Path(root)
    table = root / "dataset.csv"
    records = read_table(table, _COLUMNS, "GRAZPEDWRI-DX")
    pictures, boxes = list_pictures(root, (".png",)), list_pictures(root, (".txt",))
    rows: list[Row] = []
    found: list[bool] = []
    views: dict[str, int] = {}
    for record in sorted(records, key=lambda record: record["filestem"]):
        stem = record["filestem"].strip()
        if rows and Path(rows[-1]["image"]).stem == stem:
            raise DatasetError(f"{table} lists {stem} twice; get a fresh copy")
        picture = only_picture(pictures, stem, table)
        flags = {name: read_flag(record[name], f"{stem}, {name}") for name in ("cast", "fracture_visible", "metal")}
        patient = _number(record["patient_id"], stem, "patient_id")
        study = f"{patient}/{_number(record['study_number'], stem, 'study_number')}"
        views[study] = views.get(study, 0) + 1
        lists = boxes.get(stem, [])
        if len(lists) > 1:
            raise DatasetError(f"{stem} has {len(lists)} lists of boxes: {', '.join(map(str, lists))}")
        marked = read_yolo_boxes(lists[0], picture, [_BOXES_OF[kind] for kind in kinds]) if lists else []
        rows.append(
            {
                "image": str(picture),
                "body_part": "wrist",
                "patient_id": patient,
                "study_id": study,
                "view": views[study],
                "boxes": marked,
                "fracture": flags["fracture_visible"],
                "hardware": flags["metal"],
                "cast": flags["cast"],
                "region": "wrist",
            }
        )
        found.append((flags["fracture_visible"] and "fracture" in kinds) or (flags["metal"] and "hardware" in kinds))
    counts = {
        "images": len(rows),
        "patients": len({row["patient_id"] for row in rows}),
        "fracture_visible": sum(row["fracture"] for row in rows),
    }
    tell(compare("GRAZPEDWRI-DX", counts, PUBLISHED))
    unlisted = sorted(set(pictures) - {Path(row["image"]).stem for row in rows})
    if unlisted:
        tell([f"{root}: {len(unlisted)} pictures that dataset.csv does not name are not read, such as {unlisted[0]}."])
    return cut_and_load(study_labels(rows, found), cut, valid_fraction, OPEN_FEATURES, root)


def _number(value: str, stem: str, column: str) -> str:
    """A whole number as text, without the ".0" that some spreadsheets add."""
    text = value.strip().removesuffix(".0")
    if not text.isdigit():
        raise DatasetError(f"{stem}: {column} is {value!r}, but must be a number; without it no cut by patient holds")
    return text
