"""`load_mura` loads a local copy of MURA v1.1, or synthetic radiographs in its layout, as a `DatasetDict`."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetDict, Features, Value

from ..common import BODY_PARTS, read_csv
from ..errors import DatasetError, first_line
from .mura_release import (
    compare_counts,
    count_rows,
    read_quarantine,
    refuse_withdrawn_counts,
    refuse_withdrawn_name,
)
from .splits import (
    BOXES,
    FEATURES,
    Row,
    SplitOptions,
    assign_patients,
    check_body_parts,
    list_files,
    make_splits,
    report,
)

ANNOTATIONS = Features({"boxes": BOXES, "decoys": BOXES, "finding": Value("string"), "twin": Value("string")})
"""Additional columns of synthetic data. `boxes`: bounding boxes of findings; `decoys`: where a finding would be, for
images without one; `finding`: its type, else None; `twin`: equal for the two images of a counterfactual pair, which
differ in the finding only.
"""

ANNOTATION_FILE = "findings.parquet"
"""Lies beside the lists of synthetic data."""


def load_mura(
    root: str | os.PathLike[str], body_parts: Sequence[str] | None = None, **split_options: Any
) -> DatasetDict:
    """Loads MURA v1.1, or synthetic radiographs in its layout. Checks that each file exists, but decodes none.

    All layouts in circulation are accepted: lists with or without a header, any line ends and row order, one more
    nested folder, and copies without lists, whose folders are scanned. Images and labels are joined by study path.
    `valid` is the official one, and the other splits are taken from the official train set. Every listed patient keeps
    its split whichever files are missing and whichever body parts are requested.

    Differences are reported on stderr, with a table if the copy differs from the official counts. A study without
    folder makes the copy partial. A file that is missing from the folder of its study is an error until
    `scripts/verify_mura.py` lists it in the quarantine manifest; quarantined files are left out with a message.

    Args:
        root: The folder `MURA-v1.1`, or its parent.
        body_parts: Body parts to load. Defaults to all.
        **split_options: See `SplitOptions`.

    Returns:
        Splits `train`, `dev`, `calib`, `valid` with the columns of `FEATURES`, ordered by study and view. `study_id`
        has the form "XR_WRIST/patient00001/study1"; `view` is the number in the file name. Synthetic data also has the
        columns of `ANNOTATIONS`.

    Raises:
        DatasetError: If it is MURA v1.0, files are missing, rows contradict each other, a patient is in train and in
            valid, or there are too few patients.
        ValueError: If a body part is unknown or an option is invalid.
    """
    wanted, options = check_body_parts(body_parts), SplitOptions(**split_options)
    copy = read_copy(Path(root), wanted)
    if copy.missing:
        raise DatasetError(
            f"{copy.tree}: files are missing ({len(copy.missing)}): {list_files(copy.missing)}; get a complete copy, "
            "or run scripts/verify_mura.py from a checkout of the repository to quarantine them and continue without "
            "them"
        )
    _report(copy, wanted)
    rows = [*copy.present["train"], *copy.present["valid"]]
    if copy.is_synthetic:
        annotations = _read_annotations(copy.tree / ANNOTATION_FILE)
        for row in rows:
            if row["name"] not in annotations:  # for example a real radiograph that was copied into the folder
                raise DatasetError(
                    f"{copy.tree}: {ANNOTATION_FILE} does not name {row['name']}, so it may not be synthetic; move it "
                    "elsewhere, or generate the dataset again"
                )
            row |= annotations[row["name"]]
    # Over all listed rows, so that a patient stays in one split whichever subset is loaded.
    splits = assign_patients(copy.rows["train"], options, copy.tree, given=("valid",))
    splits |= dict.fromkeys((row["patient_id"] for row in copy.rows["valid"]), "valid")
    return make_splits(rows, splits, Features({**FEATURES, **ANNOTATIONS}) if copy.is_synthetic else FEATURES)


def _report(copy: "MuraCopy", body_parts: Sequence[str]) -> None:
    """Prints what is missing or unexpected."""
    tree = copy.tree
    messages = [f"{tree} has no list of images for {split}, so its folders were scanned." for split in copy.scanned]
    table = None if copy.is_synthetic else compare_counts(count_rows(copy.present), body_parts)
    if table is not None:
        messages.append(f"{tree} is not the complete MURA v1.1:\n{table}")
    if copy.absent:
        messages.append(f"{tree}: listed studies that do not exist: {len(copy.absent)}, such as {copy.absent[0]}.")
    left_out = [name for name in copy.quarantined if (copy.images / name).parent.is_dir()]
    if left_out:
        messages.append(
            f"{tree}: files that its quarantine manifest names are left out: {len(left_out)}, such as {left_out[0]} "
            f"({copy.quarantined[left_out[0]]})."
        )
    for names, what in ((copy.unlisted, "images that no list names"), (copy.unexpected, "unexpected entries")):
        if names:
            messages.append(f"{tree}: {what} are ignored: {len(names)}, such as {names[0]}.")
    report(messages)


def _read_annotations(file: Path) -> dict[str, Row]:
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{file} is damaged ({first_line(error)}); generate the dataset again") from error
    corners = ["x0", "y0", "x1", "y1"]
    decoys = [f"decoy_{name}" for name in corners]
    absent = {"path", "seed", "finding", *corners, *decoys} - set(table.column_names)
    if absent:
        raise DatasetError(f"{file} lacks the columns {', '.join(sorted(absent))}; generate the dataset again")

    def boxes(row: Row, names: Sequence[str]) -> list[list[int]]:
        return [] if row[names[0]] is None else [[row[name] for name in names]]

    return {
        _from_split(row["path"]): {
            "boxes": boxes(row, corners),
            "decoys": boxes(row, decoys),
            "finding": row["finding"],
            "twin": f"{row['seed']}/{row['path'].rsplit('/', 1)[-1]}",
        }
        for row in table.to_pylist()
    }


_SPLITS_ON_DISK = ("train", "valid")
_IMAGES, _STUDIES = "{}_image_paths.csv", "{}_labeled_studies.csv"
LISTS = tuple(name.format(split) for split in _SPLITS_ON_DISK for name in (_IMAGES, _STUDIES))
"""The four CSV files of MURA."""
_WITHDRAWN_LISTS = ("train.csv", "valid.csv")

_FROM_SPLIT = re.compile(r"(?:^|.*/)((?:train|valid)/XR_.*)")
_STUDY = re.compile(
    r"(?P<split>train|valid)/XR_(?P<part>[A-Z]+)/(?P<patient>patient\d+)/(?P<study>study\d+)_(?P<sign>\w+)$"
)
_LEVELS = (re.compile(r"XR_[A-Z]+$"), re.compile(r"patient\d+$"), re.compile(r"study\d+_(?:negative|positive)$"))
_VIEW = re.compile(r"image(\d+)\.png$")
_SIGNS = {"negative": 0, "positive": 1}


@dataclass
class MuraCopy:
    """What a copy of MURA lists, and which of it exists. Paths begin with the split."""

    tree: Path  # folder with the lists
    images: Path  # folder with train and valid: `tree`, or a folder in it
    is_synthetic: bool  # whether the images are synthetic
    # Split -> all listed rows of all body parts in a stable order
    rows: dict[str, list[Row]] = field(default_factory=dict)
    # Split -> rows of the requested parts whose files exist and are not quarantined
    present: dict[str, list[Row]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)  # studies of the requested parts whose folder does not exist
    missing: list[str] = field(default_factory=list)  # files that do not exist in an existing folder of their study
    quarantined: dict[str, str] = field(default_factory=dict)  # path -> reason
    unlisted: list[str] = field(default_factory=list)  # existing images that no list names
    unexpected: list[str] = field(default_factory=list)  # files and folders that do not belong to the layout of MURA
    scanned: list[str] = field(default_factory=list)  # splits without a list of images, whose folders were scanned


def read_copy(root: Path, body_parts: Sequence[str]) -> MuraCopy:
    """Reads the lists of a copy, or its folders if a list is missing, and checks which files of some parts exist.

    Raises:
        DatasetError: If there is no copy, it is MURA v1.0, rows contradict each other, or a patient is in both splits.
    """
    tree = find_tree(root)
    if tree is None:
        raise DatasetError(
            f"{root} contains no train_labeled_studies.csv and no folder train/XR_..., nor does a folder MURA-v1.1 in "
            "it; give the folder into which MURA v1.1 was unpacked, or generate synthetic data with "
            "scripts/make_phantoms.py from a checkout of the repository"
        )
    inner = tree / "MURA-v1.1"  # some copies have their images in here, and their lists beside it
    beside = any((tree / split).is_dir() for split in _SPLITS_ON_DISK)
    nested = not beside and any((inner / split).is_dir() for split in _SPLITS_ON_DISK)
    copy = MuraCopy(
        tree, inner if nested else tree, (tree / ANNOTATION_FILE).is_file(), quarantined=read_quarantine(tree)
    )
    for split in _SPLITS_ON_DISK:
        copy.rows[split] = _make_rows(copy, split, _list_images(copy, split))
    if not any(copy.rows.values()):
        raise DatasetError(f"{tree} lists no image; get a complete copy of MURA v1.1")
    if not copy.is_synthetic:
        refuse_withdrawn_counts(tree, copy.rows)
    train, valid = ({row["patient_id"] for row in copy.rows[split]} for split in _SPLITS_ON_DISK)
    if train & valid:
        raise DatasetError(
            f"{tree}: patients are in train and in valid ({len(train & valid)}, such as {min(train & valid)}); get a "
            "fresh copy"
        )
    for split in _SPLITS_ON_DISK:
        copy.present[split] = _find_present(copy, split, body_parts)
    if not any(copy.present.values()):
        raise DatasetError(
            f"{tree}: no image of {', '.join(body_parts)} exists, though {sum(map(len, copy.rows.values()))} are "
            "listed; copy train and valid beside the lists"
        )
    return copy


def find_tree(root: Path) -> Path | None:
    """Finds the folder with the lists of MURA, or at least with train or valid: `root` or up to two levels below.

    Raises:
        DatasetError: If it is MURA v1.0.
    """
    candidates = (root, root / "MURA-v1.1", root / "MURA-v1.1" / "MURA-v1.1")
    for candidate in candidates:
        if any((candidate / name).is_file() for name in LISTS):
            return candidate
    for candidate in candidates:
        if all((candidate / name).is_file() for name in _WITHDRAWN_LISTS):
            refuse_withdrawn_name(candidate, ["MURA-v1.0"])
        if any(any((candidate / split).glob("XR_*")) for split in _SPLITS_ON_DISK):
            refuse_withdrawn_name(candidate)
            return candidate
    for candidate in (root, root / "MURA-v1.0"):
        if candidate.is_dir():
            refuse_withdrawn_name(candidate)
    return None


def _from_split(path: str) -> str:
    """Returns the part of a listed path from train or valid on, without a trailing slash."""
    normalized = path.strip().replace("\\", "/").strip("/")
    found = _FROM_SPLIT.match(normalized)
    return found[1] if found else normalized


def _list_images(copy: MuraCopy, split: str) -> list[tuple[str, str]]:
    """Returns the source (for messages) and the path of each listed image of a split."""
    file = copy.tree / _IMAGES.format(split)
    if not file.is_file():
        copy.scanned.append(split)
        return [(str(copy.images / split), name) for name in _scan(copy, split)]
    rows = _read_list(file)
    refuse_withdrawn_name(copy.tree, {row[0].replace("\\", "/").split("/", 1)[0] for _, row in rows})
    names = [
        (f"{file}, row {number}", _from_split(row[0])) for number, row in rows if number > 1 or not _is_header(row)
    ]
    return [(where, name) for where, name in names if not name.rsplit("/", 1)[-1].startswith(".")]


def _scan(copy: MuraCopy, folder: str, level: int = 0) -> Iterator[str]:
    """Yields the paths of images in the layout of MURA, and notes unexpected entries."""
    try:
        entries = sorted(os.scandir(copy.images / folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        name = f"{folder}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if level == len(_LEVELS) and _VIEW.match(entry.name):
            yield name
        elif level < len(_LEVELS) and _LEVELS[level].match(entry.name) and entry.is_dir():
            yield from _scan(copy, name, level + 1)
        else:
            copy.unexpected.append(name)


def _is_header(row: list[str]) -> bool:
    """Returns whether a row names columns instead of a path. Some copies begin with one."""
    return "/" not in row[0] and "\\" not in row[0]


def _read_list(path: Path) -> list[tuple[int, list[str]]]:
    try:
        return read_csv(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path} {error}, or get a fresh copy") from error
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); MURA v1.1 has four CSV files, get a complete copy"
        ) from error


def _read_labels(tree: Path, split: str) -> dict[str, int] | None:
    """Returns study -> label, or None if there is no list of labels and the folder names must suffice."""
    path = tree / _STUDIES.format(split)
    if not path.is_file():
        return None
    labels: dict[str, int] = {}
    for number, row in _read_list(path):
        if number == 1 and _is_header(row):
            continue
        if len(row) != 2 or row[1] not in ("0", "1"):
            raise DatasetError(f"{path}, row {number}: expected a study and 0 or 1, found {','.join(row)!r}")
        study = _from_split(row[0])
        if labels.setdefault(study, int(row[1])) != int(row[1]):
            raise DatasetError(f"{path}: {study} is labelled both 0 and 1")
    return labels


def _make_rows(copy: MuraCopy, split: str, names: list[tuple[str, str]]) -> list[Row]:
    """Makes a row of each listed image, joined with the label of its study by path, never by position."""
    labels, labels_file = _read_labels(copy.tree, split), _STUDIES.format(split)
    rows: dict[str, Row] = {}
    folders: dict[str, str] = {}
    for where, name in names:
        folder, file = os.path.split(name)
        study, view = _STUDY.match(folder), _VIEW.match(file)
        known = study and view and study["sign"] in _SIGNS and study["part"].lower() in BODY_PARTS
        if not study or not view or not known or study["split"] != split:
            raise DatasetError(f"{where}: {name!r} is not a path of {split} in MURA v1.1")
        label = _SIGNS[study["sign"]]
        if labels is not None and folder not in labels:
            raise DatasetError(f"{where}: {folder} has no label in {labels_file}")
        if labels is not None and labels[folder] != label:
            raise DatasetError(
                f"{copy.tree}: {folder} is labelled {labels[folder]} in {labels_file}, which contradicts its name"
            )
        if name in rows:
            raise DatasetError(f"{where}: {name} is listed twice")
        study_id = f"XR_{study['part']}/{study['patient']}/{study['study']}"
        if folders.setdefault(study_id, folder) != folder:
            raise DatasetError(
                f"{where}: {study_id} is in {folders[study_id]} and in {folder}, so its label is unclear"
            )
        rows[name] = {
            "name": name,
            "image": str(copy.images / name),
            "label": label,
            "body_part": study["part"].lower(),
            "patient_id": study["patient"],
            "study_id": study_id,
            "view": int(view[1]),
        }
    without = sorted(set(labels or ()) - set(folders.values()))
    list_file = copy.tree / _IMAGES.format(split)
    if without and list_file.is_file():
        raise DatasetError(
            f"{list_file} lists no image of {len(without)} labelled studies, such as {without[0]}; get a complete copy"
        )
    return sorted(rows.values(), key=lambda row: (row["study_id"], row["view"]))


def _find_present(copy: MuraCopy, split: str, body_parts: Sequence[str]) -> list[Row]:
    """Returns the rows of the requested parts whose files exist, and notes what is missing."""
    studies: dict[str, list[Row]] = {}
    for row in copy.rows[split]:
        if row["body_part"] in body_parts:
            studies.setdefault(os.path.dirname(row["name"]), []).append(row)
    present: list[Row] = []
    for folder, rows in studies.items():
        try:
            files = {name for name in os.listdir(copy.images / folder) if not name.startswith(".")}
        except OSError:
            copy.absent.append(folder)
            continue
        listed = {os.path.basename(row["name"]): row for row in rows}
        kept = [(file in files, row) for file, row in listed.items() if row["name"] not in copy.quarantined]
        present += [row for exists, row in kept if exists]
        copy.missing += [row["name"] for exists, row in kept if not exists]
        copy.unlisted += [f"{folder}/{name}" for name in sorted(files - set(listed))]
    return present
