"""`load_mura`: a copy of MURA v1.1 on disk as a `DatasetDict`."""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from ..errors import DatasetError
from ..models.configuration_mura import BODY_PARTS, LABELS
from .splits import check_fractions, split_patients

FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=list(LABELS)),
        "body_part": ClassLabel(names=list(BODY_PARTS)),
        "patient_id": Value("string"),
        "study_id": Value("string"),
        "view": Value("int32"),
    }
)
"""Columns of every dataset that the package loads."""

_BOXES = List(List(Value("int32"), length=4))
TRUTH = Features({"boxes": _BOXES, "decoys": _BOXES, "finding": Value("string"), "twin": Value("string")})
"""Further columns where a dataset knows its findings. `boxes`: where they show, x0, y0, x1, y1 in pixels of the file,
half open; `decoys`: where they would show in a picture that has none; `finding`: what kind, None where there is none;
`twin`: the same for pictures that differ in the finding alone.
"""
_NOTHING: dict[str, Any] = {"boxes": [], "decoys": [], "finding": None, "twin": None}

_FROM_SPLIT = re.compile(r"(?:^|.*/)((?:train|valid)/XR_.*)")
_STUDY = re.compile(
    r"(?P<split>train|valid)/XR_(?P<part>[A-Z]+)/(?P<patient>patient\d+)/(?P<study>study\d+)_(?P<sign>\w+)$"
)
_VIEW = re.compile(r"image(\d+)\.png$")
_CORNERS = ("x0", "y0", "x1", "y1")
_SIGNS = {"negative": 0, "positive": 1}


def load_mura(
    root: str | os.PathLike[str],
    body_parts: Sequence[str] | None = None,
    dev_fraction: float = 0.08,
    calib_fraction: float = 0.08,
    seed: int = 0,
) -> DatasetDict:
    """Loads MURA v1.1, or phantoms in its layout. Looks whether each file is there, decodes none.

    Rows are joined by study path, never by their place in the files. `dev` (selection, early stopping) and `calib`
    (calibration, thresholds) are cut from train by patient: no patient is in two splits. `valid` is the official one.

    Args:
        root: The folder `MURA-v1.1`, or the one that holds it.
        body_parts: Some of the seven; all where None.
        dev_fraction: Share of the train patients for `dev`.
        calib_fraction: Share of the train patients for `calib`.
        seed: Of the cut.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `FEATURES`. `study_id` is like
        "XR_WRIST/patient00001/study1", `view` the number in the file's name. Phantoms bring the columns of
        `TRUTH` too.

    Raises:
        DatasetError: If files are missing, rows contradict each other, a patient is in both train and valid, or there
            are too few patients to cut.
        ValueError: If a body part is unknown, or the fractions are negative or leave nothing for train.
    """
    if isinstance(body_parts, str):
        raise ValueError(f"body_parts is a list such as [{body_parts!r}], not the text {body_parts!r}")
    wanted = tuple(BODY_PARTS if body_parts is None else body_parts)
    unknown = sorted(set(wanted) - set(BODY_PARTS))
    if unknown or not wanted:
        raise ValueError(f"unknown body parts {unknown}; choose among {', '.join(BODY_PARTS)}")
    tree = _find_tree(Path(root))
    rows = {split: _read_split(tree, split, wanted) for split in ("train", "valid")}
    features = FEATURES
    truth = _read_findings(tree)
    if truth is not None:
        features = Features({**FEATURES, **TRUTH})
        for row in rows["train"] + rows["valid"]:
            row |= truth.get(Path(row["image"]).relative_to(tree).as_posix(), _NOTHING)
        if not any(row["twin"] for row in rows["train"] + rows["valid"]):
            raise DatasetError(f"{tree}: findings.parquet names none of the tree's pictures; make the phantoms again")
    shared = {row["patient_id"] for row in rows["train"]} & {row["patient_id"] for row in rows["valid"]}
    if shared:
        raise DatasetError(
            f"{tree}: {len(shared)} patients are in train and in valid, such as {min(shared)}; get a fresh copy"
        )
    # The cut is drawn over all parts, so that a patient stays in one split whatever subset is loaded.
    fractions = {"dev": dev_fraction, "calib": calib_fraction}
    check_fractions(fractions)
    try:
        cut = split_patients([row["patient_id"] for row in rows["train"]], fractions, seed=seed)
    except ValueError as error:
        raise DatasetError(f"{tree} is too small: {error}") from error
    splits: dict[str, list[dict]] = {name: [] for name in ("train", "dev", "calib", "valid")}
    for row in rows["train"]:
        splits[cut[row["patient_id"]]].append(row)
    splits["valid"] = rows["valid"]
    return DatasetDict(
        {
            name: _dataset([row for row in chosen if row["body_part"] in wanted], features)
            for name, chosen in splits.items()
        }
    )


def _dataset(rows: list[dict], features: Features) -> Dataset:
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def _read_findings(tree: Path) -> dict[str, dict[str, Any]] | None:
    """`TRUTH` by path from train or valid on, from the `findings.parquet` of phantoms; None where there is none."""
    file = tree / "findings.parquet"
    if not file.is_file():
        return None
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{file} is damaged ({_first_line(error)}); make the phantoms again") from error
    decoys = [f"decoy_{name}" for name in _CORNERS]
    absent = {"path", "seed", "finding", *_CORNERS, *decoys} - set(table.column_names)
    if absent:
        raise DatasetError(f"{file} lacks the columns {', '.join(sorted(absent))}; make the phantoms again")
    return {
        _from_split(row["path"]): {
            "boxes": _boxes(row, _CORNERS),
            "decoys": _boxes(row, decoys),
            "finding": row["finding"],
            "twin": f"{row['seed']}/{row['path'].rsplit('/', 1)[-1]}",
        }
        for row in table.to_pylist()
    }


def _boxes(row: dict[str, Any], corners: Sequence[str]) -> list[list[int]]:
    return [] if row[corners[0]] is None else [[row[name] for name in corners]]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _find_tree(root: Path) -> Path:
    for candidate in (root, root / "MURA-v1.1", root / "MURA-v1.1" / "MURA-v1.1"):
        if (candidate / "train_labeled_studies.csv").is_file():
            return candidate
    raise DatasetError(
        f"{root} holds no train_labeled_studies.csv, nor does a folder MURA-v1.1 in it; give the folder that "
        "MURA v1.1 was unpacked into, or make phantoms with scripts/make_phantoms.py"
    )


def _read_rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text ({error}); save it as UTF-8, or get a fresh copy") from error
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); MURA v1.1 brings four CSV files, get a whole copy"
        ) from error


def _from_split(path: str) -> str:
    """The part of a CSV path from train or valid on, without a trailing slash."""
    whole = path.strip().strip("/")
    found = _FROM_SPLIT.match(whole)
    return found[1] if found else whole


def _read_labels(path: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, row in enumerate(_read_rows(path)):
        if number == 0 and row[-1] not in ("0", "1"):
            continue  # some copies have a header
        if len(row) != 2 or row[1] not in ("0", "1"):
            raise DatasetError(f"{path}, row {number + 1}: expected a study and 0 or 1, found {','.join(row)!r}")
        study = _from_split(row[0])
        if labels.setdefault(study, int(row[1])) != int(row[1]):
            raise DatasetError(f"{path}: {study} is labelled both 0 and 1")
    return labels


def _read_split(tree: Path, split: str, wanted: Sequence[str]) -> list[dict]:
    """Every row of a split; of the wanted parts, the files must be there."""
    labels = _read_labels(tree / f"{split}_labeled_studies.csv")
    listing = tree / f"{split}_image_paths.csv"
    rows: list[dict] = []
    missing: list[str] = []
    folders: dict[str, str] = {}
    names: set[str] = set()
    for number, (path, *_) in enumerate(_read_rows(listing)):
        if number == 0 and not path.endswith(".png"):
            continue
        name = _from_split(path)
        folder, file = os.path.split(name)
        found, view = _STUDY.match(folder), _VIEW.match(file)
        if file.startswith("."):
            continue
        if not found or not view or found["sign"] not in _SIGNS or found["part"].lower() not in BODY_PARTS:
            raise DatasetError(f"{listing}, row {number + 1}: {path!r} is no path of MURA v1.1")
        if folder not in labels:
            raise DatasetError(f"{listing}: {folder} has no label in {split}_labeled_studies.csv")
        if labels[folder] != _SIGNS[found["sign"]]:
            raise DatasetError(
                f"{folder} is labelled {labels[folder]} in {split}_labeled_studies.csv, against its folder's name"
            )
        if name in names:
            raise DatasetError(f"{listing}, row {number + 1}: {name} is listed twice")
        names.add(name)
        study = f"XR_{found['part']}/{found['patient']}/{found['study']}"
        if folders.setdefault(study, folder) != folder:
            raise DatasetError(f"{listing}: {study} is in {folders[study]} and in {folder}, so its label is not clear")
        if found["part"].lower() in wanted and not (tree / name).is_file():
            missing.append(name)
        rows.append(
            {
                "image": str(tree / name),
                "label": labels[folder],
                "body_part": found["part"].lower(),
                "patient_id": found["patient"],
                "study_id": study,
                "view": int(view[1]),
            }
        )
    if not rows:
        raise DatasetError(f"{listing} lists no image; get a whole copy")
    without = sorted(set(labels) - set(folders.values()))
    if without:
        raise DatasetError(f"{listing} lists no image of {len(without)} labelled studies, such as {without[0]}")
    if missing:
        raise DatasetError(
            f"{tree}: {len(missing)} of {len(rows)} {split} files are missing, such as {missing[0]}; get a whole copy"
        )
    return sorted(rows, key=_order)


def _order(row: dict) -> tuple[str, int]:
    return row["study_id"], row["view"]
