"""`load_grazpedwri` loads a local copy of GRAZPEDWRI-DX as a `DatasetDict`."""

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

CLASSES = (
    "boneanomaly", "bonelesion", "foreignbody", "fracture", "metal",
    "periostealreaction", "pronatorsign", "softtissue", "text",
)  # fmt: skip
"""Classes of the boxes, in the order of their numbers."""

PUBLISHED = {"images": 20_327, "patients": 6_091, "fracture_visible": 13_550}
"""Counts of the whole dataset (Nagy et al., Scientific Data 9, 222, 2022)."""

_COLUMNS = ("filestem", "patient_id", "study_number", "cast", "fracture_visible", "metal")
_BOX_CLASS = {"fracture": CLASSES.index("fracture"), "hardware": CLASSES.index("metal")}


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
    """Loads GRAZPEDWRI-DX: radiographs of children's wrists with boxes. Decodes no file.

    Source: Nagy et al., Scientific Data 9, 222 (2022), CC BY 4.0.

    Images and the YOLO text files of their boxes lie in several folders and are found by their stem. A study is
    abnormal if one of its views is, and all its views get this label, as in MURA; `fracture` and `hardware` belong to
    the view. If a copy lacks some of the published 20,327 images, a table on stderr says so.

    Args:
        root: The folder with dataset.csv. Images and boxes lie anywhere below it.
        dev_fraction: Fraction of the patients outside valid for `dev`.
        calib_fraction: Fraction of the patients outside valid for `calib`.
        valid_fraction: Fraction of all patients for `valid`, independent of the seed.
        seed: Seed of the splits.
        abnormal: Findings that count as abnormal. MURA also counts "hardware".
        fold: As in `load_mura`.
        n_folds: As in `load_mura`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `OPEN_FEATURES`; `body_part` is wrist.

    Raises:
        DatasetError: If it is not GRAZPEDWRI-DX, or a listed image is missing or exists twice.
        ValueError: If a finding is unknown, or the fractions are invalid.
    """
    abnormal = check_abnormal(abnormal)
    options = SplitOptions({"dev": dev_fraction, "calib": calib_fraction}, seed, fold=fold, n_folds=n_folds)
    root = Path(root)
    table = root / "dataset.csv"
    records = read_table(table, _COLUMNS, "GRAZPEDWRI-DX")
    images, box_files = find_images(root, (".png",)), find_images(root, (".txt",))
    classes = [_BOX_CLASS[finding] for finding in abnormal]
    rows: dict[str, Row] = {}
    views: dict[str, int] = {}
    for record in sorted(records, key=lambda record: record["filestem"]):
        stem = record["filestem"].strip()
        if stem in rows:
            raise DatasetError(f"{table} lists {stem} twice; get a fresh copy")
        image = find_one_image(images, stem, table)
        flags = {name: read_flag(record[name], f"{stem}: {name}") for name in ("cast", "fracture_visible", "metal")}
        patient, number = (read_number(record[name], f"{stem}: {name}") for name in ("patient_id", "study_number"))
        study = f"{patient}/{number}"
        views[study] = views.get(study, 0) + 1
        files = box_files.get(stem, [])
        if len(files) > 1:
            raise DatasetError(f"{stem} has {len(files)} lists of boxes: {', '.join(map(str, files))}")
        rows[stem] = {
            "image": str(image),
            "body_part": "wrist",
            "patient_id": patient,
            "study_id": study,
            "view": views[study],
            "boxes": read_yolo_boxes(files[0], image, classes) if files else [],
            "fracture": flags["fracture_visible"],
            "hardware": flags["metal"],
            "cast": flags["cast"],
            "region": "wrist",
        }
    found = {
        "images": len(rows),
        "patients": len({row["patient_id"] for row in rows.values()}),
        "fracture_visible": sum(row["fracture"] for row in rows.values()),
    }
    report_differences("GRAZPEDWRI-DX", found, PUBLISHED, sorted(set(images) - set(rows)))
    return split_and_load(label_studies(list(rows.values()), abnormal), options, valid_fraction, OPEN_FEATURES, root)
