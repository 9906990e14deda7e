"""What is known about each picture of a tree of phantoms.

`load_mura`: a copy of MURA v1.1 on disk as a `DatasetDict`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetDict, Features, Value

from ..errors import DatasetError
from ..models.configuration_mura import BODY_PARTS
from .mura_files import Listing, find_tree, from_split, list_files
from .mura_release import compare_counts, count_rows
from .splits import BOXES, FEATURES, Cut, Row, cut_rows, make_splits

ANNOTATIONS = Features({"boxes": BOXES, "decoys": BOXES, "finding": Value("string"), "twin": Value("string")})
"""Further columns of phantoms. `boxes`: where findings show; `decoys`: where they would show in a picture that has
none; `finding`: what kind, None where there is none; `twin`: the same for pictures that differ in the finding alone.
"""

_FILE = "findings.parquet"
_CORNERS = ("x0", "y0", "x1", "y1")


def has_truth(tree: Path) -> bool:
    """Whether a tree (the folder with train and valid) is one of phantoms."""
    return (tree / _FILE).is_file()


def add_truth(tree: Path, rows: Sequence[Row]) -> None:
    """Adds the columns of `ANNOTATIONS` to the rows of a tree of phantoms.

    Args:
        tree: The folder with train and valid.
        rows: Of both splits; changed in place.

    Raises:
        DatasetError: If `findings.parquet` is damaged, or is about another tree.
    """
    truth = _read_findings(tree / _FILE)
    for row in rows:
        if row["name"] not in truth:  # a picture that was put among phantoms is none for being there
            raise DatasetError(
                f"{tree}: findings.parquet does not name {row['name']}, so it is not known to be a phantom; move it "
                "elsewhere, or make the phantoms again"
            )
        row |= truth[row["name"]]


def _read_findings(file: Path) -> dict[str, Row]:
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{file} is damaged ({reason}); make the phantoms again") from error
    decoys = [f"decoy_{name}" for name in _CORNERS]
    absent = {"path", "seed", "finding", *_CORNERS, *decoys} - set(table.column_names)
    if absent:
        raise DatasetError(f"{file} lacks the columns {', '.join(sorted(absent))}; make the phantoms again")
    return {
        from_split(row["path"]): {
            "boxes": _boxes(row, _CORNERS),
            "decoys": _boxes(row, decoys),
            "finding": row["finding"],
            "twin": f"{row['seed']}/{row['path'].rsplit('/', 1)[-1]}",
        }
        for row in table.to_pylist()
    }


def _boxes(row: dict[str, Any], corners: Sequence[str]) -> list[list[int]]:
    return [] if row[corners[0]] is None else [[row[name] for name in corners]]


def load_mura(
    root: str | os.PathLike[str],
    body_parts: Sequence[str] | None = None,
    dev_fraction: float = 0.08,
    calib_fraction: float = 0.08,
    seed: int = 0,
    *,
    fold: int | None = None,
    n_folds: int = 5,
    stratified: bool = True,
) -> DatasetDict:
    """Loads MURA v1.1, or phantoms in its layout. Looks whether each file is there, decodes none.

    Takes every layout in circulation: lists with or without a header, any line ends and row order, folders nested once
    more, and copies without lists, whose folders are read instead. Rows are joined by study path, never by their place
    in the files. `dev` (selection, early stopping) and `calib` (calibration, thresholds) are cut from train by
    patient: no patient is in two splits, and one that is listed keeps its split whatever else is missing or
    asked for. `valid` is the official one.

    Nothing is left out in silence. Where a copy differs from MURA's official counts, a table says so on stderr. A
    study whose folder is not there makes a partial copy; a file that is missing from its study's folder is an error,
    until `scripts/verify_mura.py` has put it into the quarantine manifest, which is honoured and told.

    Args:
        root: The folder `MURA-v1.1`, or the one that holds it.
        body_parts: Some of the seven; all where None.
        dev_fraction: Share of the train patients for `dev`; with a fold, the fold decides.
        calib_fraction: Share of the train patients for `calib`.
        seed: Of the cut.
        fold: Cross-validation: what is left beside `calib` is cut into `n_folds`, and this one, from 0 on, is `dev`.
            `calib` and `valid` are the same for every fold.
        n_folds: How many folds.
        stratified: Whether shares of body parts and labels are kept alike; False draws patients whatever they have.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `FEATURES`, rows by study and view. `study_id` is
        like "XR_WRIST/patient00001/study1", `view` the number in the file's name. Phantoms bring the columns of
        `ANNOTATIONS` too.

    Raises:
        DatasetError: If it is MURA v1.0, files are missing, rows contradict each other, a patient is in both train and
            valid, or there are too few patients to cut.
        ValueError: If a body part is unknown, the fractions are negative or leave nothing for train, or there is no
            such fold.
    """
    wanted = check_body_parts(body_parts)
    cut = Cut({"dev": dev_fraction, "calib": calib_fraction}, seed, fold=fold, n_folds=n_folds, stratified=stratified)
    tree = find_tree(Path(root))
    phantoms = has_truth(tree)
    listing = list_files(tree, wanted, phantoms=phantoms)
    if listing.missing:
        raise DatasetError(
            f"{tree}: {len(listing.missing)} files are missing, such as {listing.missing[0]}; get a whole copy, or "
            "let scripts/verify_mura.py put them into its quarantine manifest, to go on without them"
        )
    _tell(listing, None if phantoms else compare_counts(count_rows(listing.present), wanted))
    if phantoms:
        add_truth(tree, [*listing.present["train"], *listing.present["valid"]])
    try:
        # The cut is drawn over all that is listed, so that a patient stays in one split whatever subset is loaded.
        places = cut_rows(listing.rows["train"], cut)
    except ValueError as error:
        raise DatasetError(f"{tree} is too small: {error}") from error
    rows: dict[str, list] = {"valid": listing.present["valid"]}
    for row in listing.present["train"]:
        rows.setdefault(places[row["patient_id"]], []).append(row)
    return make_splits(rows, Features({**FEATURES, **ANNOTATIONS}) if phantoms else FEATURES)


def check_body_parts(body_parts: Sequence[str] | None) -> tuple[str, ...]:
    """The wanted ones of the seven parts; all of them where None.

    Raises:
        ValueError: If one is unknown, or it is a text instead of a list.
    """
    if isinstance(body_parts, str):
        raise ValueError(f"body_parts is a list such as [{body_parts!r}], not the text {body_parts!r}")
    wanted = tuple(BODY_PARTS if body_parts is None else body_parts)
    unknown = sorted(set(wanted) - set(BODY_PARTS))
    if unknown or not wanted:
        raise ValueError(f"unknown body parts {unknown}; choose among {', '.join(BODY_PARTS)}")
    return wanted


def _tell(listing: Listing, table: str | None) -> None:
    """Says on stderr what is not as it should be."""
    tree = listing.tree
    told = [f"{tree} has no list of {split}'s images, so its folders were read." for split in listing.scanned]
    if table is not None:
        told.append(f"{tree} is not the whole of MURA v1.1:\n{table}")
    if listing.absent:
        told.append(f"{tree}: {len(listing.absent)} listed studies are not there, such as {listing.absent[0]}.")
    left_out = [name for name in listing.quarantined if (listing.pictures / name).parent.is_dir()]
    if left_out:
        told.append(
            f"{tree}: {len(left_out)} files are left out because its quarantine manifest names them, such as "
            f"{left_out[0]} ({listing.quarantined[left_out[0]]})."
        )
    for names, what in ((listing.unlisted, "pictures that no list names"), (listing.strange, "strange entries")):
        if names:
            told.append(f"{tree}: {len(names)} {what} are not read, such as {names[0]}.")
    if told:
        print("\n".join(told), file=sys.stderr)
