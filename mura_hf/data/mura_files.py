"""How many images and studies MURA has, and what a copy lacks.

The quarantine manifest: files of a copy of MURA that are known to be bad, and are left out with a word.
What a copy of MURA v1.1 lists, and which of it is there.
"""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..common import BODY_PARTS
from ..errors import DatasetError
from .mura_release import refuse_withdrawn_counts, refuse_withdrawn_name
from .splits import Row

QUARANTINE_FILE = "quarantine.csv"
"""Lies beside MURA's own lists: a header, then path (from train or valid on) and reason."""

_HEADER = ["path", "reason"]


def read_quarantine(tree: Path) -> dict[str, str]:
    """Path from the split on -> reason; empty where there is no manifest.

    Raises:
        DatasetError: If the manifest is damaged; to go on without it would let bad files in.
    """
    file = tree / QUARANTINE_FILE
    if not file.exists():
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            header, *rows = list(csv.reader(lines)) or [[]]
        if header != _HEADER or any(len(row) != len(_HEADER) for row in rows):
            raise ValueError("expected the columns path and reason")
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{file} cannot be used ({error}); write it again with scripts/verify_mura.py") from error
    return {path.removeprefix("MURA-v1.1/"): reason for path, reason in rows}


def write_quarantine(tree: Path, reasons: dict[str, str]) -> Path | None:
    """Puts a new manifest in the place of an old one, whole or not at all; with nothing to quarantine there is none.

    Args:
        tree: The folder with MURA's lists.
        reasons: Path from the split on -> reason.

    Raises:
        DatasetError: If it cannot be written.
    """
    file = tree / QUARANTINE_FILE
    try:
        if not reasons:
            file.unlink(missing_ok=True)
            return None
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        with fresh.open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines, lineterminator="\n").writerows([_HEADER, *sorted(reasons.items())])
            lines.flush()
            os.fsync(lines.fileno())
        os.replace(fresh, file)
    except OSError as error:
        raise DatasetError(f"{file} cannot be written ({error.strerror}); make the folder writable") from error
    return file


SPLITS_ON_DISK = ("train", "valid")
_IMAGES, _STUDIES = "{}_image_paths.csv", "{}_labeled_studies.csv"
LISTS = tuple(name.format(split) for split in SPLITS_ON_DISK for name in (_IMAGES, _STUDIES))
"""MURA's own four lists."""
_WITHDRAWN_LISTS = ("train.csv", "valid.csv")

_FROM_SPLIT = re.compile(r"(?:^|.*/)((?:train|valid)/XR_.*)")
_STUDY = re.compile(
    r"(?P<split>train|valid)/XR_(?P<part>[A-Z]+)/(?P<patient>patient\d+)/(?P<study>study\d+)_(?P<sign>\w+)$"
)
_LEVELS = (re.compile(r"XR_[A-Z]+$"), re.compile(r"patient\d+$"), re.compile(r"study\d+_(?:negative|positive)$"))
_VIEW = re.compile(r"image(\d+)\.png$")
_SIGNS = {"negative": 0, "positive": 1}


@dataclass
class Listing:
    """A copy of MURA.

    Attributes:
        tree: Folder with the lists.
        pictures: Folder with train and valid; the same, or one below.
        rows: By split, all that is listed, of every part, whether it is there or not; in a stable order.
        present: By split, what of the wanted parts is there and not quarantined.
        absent: Studies of the wanted parts whose whole folder is not there.
        missing: Files that are not there, of studies that are.
        quarantined: Path from the split on -> reason, of what the quarantine manifest leaves out.
        unlisted: Pictures that are there, but that no list names.
        strange: Files and folders that have no place in MURA's layout.
        scanned: Splits that have no list of images, so that the folders themselves were read.
    """

    tree: Path
    pictures: Path
    rows: dict[str, list[Row]] = field(default_factory=dict)
    present: dict[str, list[Row]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    scanned: list[str] = field(default_factory=list)


def list_files(root: Path, wanted: Sequence[str], *, phantoms: bool = False) -> Listing:
    """Reads the lists of a copy, or its folders where a list is missing, and looks which files are there.

    Args:
        root: The folder `MURA-v1.1`, or the one that holds it.
        wanted: Body parts whose files are looked for.
        phantoms: Whether the pictures are synthetic, so that their number says nothing about the version of MURA.

    Raises:
        DatasetError: If there is no copy, it is MURA v1.0, rows contradict each other, or a patient is in both splits.
    """
    tree = find_tree(root)
    listing = Listing(tree, _find_pictures(tree))
    listing.quarantined = read_quarantine(listing.tree)
    for split in SPLITS_ON_DISK:
        names = _listed(listing, split)
        listing.rows[split] = _make_rows(listing, split, names)
    if not any(listing.rows.values()):
        raise DatasetError(f"{listing.tree} lists no image; get a whole copy of MURA v1.1")
    if not phantoms:
        refuse_withdrawn_counts(listing.tree, listing.rows)
    train, valid = ({row["patient_id"] for row in listing.rows[split]} for split in SPLITS_ON_DISK)
    if train & valid:
        raise DatasetError(
            f"{listing.tree}: {len(train & valid)} patients are in train and in valid, such as {min(train & valid)}; "
            "get a fresh copy"
        )
    for split in SPLITS_ON_DISK:
        listing.present[split] = _look(listing, split, wanted)
    if not any(listing.present.values()):
        raise DatasetError(
            f"{listing.tree}: no picture of {', '.join(wanted)} is there, though "
            f"{sum(map(len, listing.rows.values()))} are listed; copy train and valid beside the lists"
        )
    return listing


def find_tree(root: Path) -> Path:
    """The folder with MURA's lists, or at least its folders train or valid, in `root` or up to two below.

    Raises:
        DatasetError: If there is none, or only MURA v1.0.
    """
    candidates = (root, root / "MURA-v1.1", root / "MURA-v1.1" / "MURA-v1.1")
    for candidate in candidates:
        if any((candidate / name).is_file() for name in LISTS):
            return candidate
    for candidate in candidates:
        if all((candidate / name).is_file() for name in _WITHDRAWN_LISTS):
            refuse_withdrawn_name(candidate, ["MURA-v1.0"])
        if any(any((candidate / split).glob("XR_*")) for split in SPLITS_ON_DISK):
            refuse_withdrawn_name(candidate, [])
            return candidate
    for candidate in (root, root / "MURA-v1.0"):
        if candidate.is_dir():
            refuse_withdrawn_name(candidate, [])
    raise DatasetError(
        f"{root} holds no train_labeled_studies.csv nor a folder train/XR_..., nor does a folder MURA-v1.1 in it; "
        "give the folder that MURA v1.1 was unpacked into, or make phantoms with scripts/make_phantoms.py"
    )


def _find_pictures(tree: Path) -> Path:
    """Where train and valid are: beside the lists, or in a folder MURA-v1.1 beside them."""
    inner = tree / "MURA-v1.1"
    beside = any((tree / split).is_dir() for split in SPLITS_ON_DISK)
    return inner if not beside and any((inner / split).is_dir() for split in SPLITS_ON_DISK) else tree


def from_split(path: str) -> str:
    """The part of a listed path from train or valid on, without a trailing slash."""
    whole = path.strip().replace("\\", "/").strip("/")
    found = _FROM_SPLIT.match(whole)
    return found[1] if found else whole


def _listed(listing: Listing, split: str) -> list[tuple[str, str]]:
    """Where it was listed, for messages, and the path from the split on, of each picture of a split."""
    file = listing.tree / _IMAGES.format(split)
    if not file.is_file():
        listing.scanned.append(split)
        return [(str(listing.pictures / split), name) for name in _scan(listing, split)]
    rows = _read_csv(file)
    refuse_withdrawn_name(listing.tree, {row[0].replace("\\", "/").split("/", 1)[0] for row in rows})
    start = int(bool(rows) and _is_header(rows[0]))
    names = [(f"{file}, row {number + 1}", from_split(row[0])) for number, row in enumerate(rows) if number >= start]
    return [(where, name) for where, name in names if not name.rsplit("/", 1)[-1].startswith(".")]


def _scan(listing: Listing, split: str, folder: str = "", level: int = 0) -> Iterator[str]:
    """Paths from the split on of the pictures that lie where MURA's would."""
    folder = folder or split
    try:
        entries = sorted(os.scandir(listing.pictures / folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        name = f"{folder}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if level == len(_LEVELS) and _VIEW.match(entry.name):
            yield name
        elif level < len(_LEVELS) and _LEVELS[level].match(entry.name) and entry.is_dir():
            yield from _scan(listing, split, name, level + 1)
        else:
            listing.strange.append(name)


def _is_header(row: list[str]) -> bool:
    """Whether a first row names columns, as in some copies, instead of a path."""
    return "/" not in row[0] and "\\" not in row[0]


def _read_csv(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text ({error}); save it as UTF-8, or get a fresh copy") from error
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); MURA v1.1 brings four CSV files, get a whole copy"
        ) from error


def _read_labels(tree: Path, split: str) -> dict[str, int] | None:
    """Study -> label; None where the copy has no such list, so that the folders' names must tell."""
    path = tree / _STUDIES.format(split)
    if not path.is_file():
        return None
    labels: dict[str, int] = {}
    for number, row in enumerate(_read_csv(path)):
        row = [value.strip() for value in row]
        if number == 0 and _is_header(row):
            continue
        if len(row) != 2 or row[1] not in ("0", "1"):
            raise DatasetError(f"{path}, row {number + 1}: expected a study and 0 or 1, found {','.join(row)!r}")
        study = from_split(row[0])
        if labels.setdefault(study, int(row[1])) != int(row[1]):
            raise DatasetError(f"{path}: {study} is labelled both 0 and 1")
    return labels


def _make_rows(listing: Listing, split: str, names: list[tuple[str, str]]) -> list[Row]:
    """A row for each listed picture, joined with its study's label by path, never by place."""
    tree, listed = listing.tree, _IMAGES.format(split)
    labels = _read_labels(tree, split)
    rows: list[Row] = []
    folders: dict[str, str] = {}
    seen: set[str] = set()
    for where, name in names:
        folder, file = os.path.split(name)
        found, view = _STUDY.match(folder), _VIEW.match(file)
        known = found and view and found["sign"] in _SIGNS and found["part"].lower() in BODY_PARTS
        if not found or not view or not known or found["split"] != split:
            raise DatasetError(f"{where}: {name!r} is no path of {split} in MURA v1.1")
        label = _SIGNS[found["sign"]]
        if labels is not None and folder not in labels:
            raise DatasetError(f"{where}: {folder} has no label in {_STUDIES.format(split)}")
        if labels is not None and labels[folder] != label:
            raise DatasetError(
                f"{tree}: {folder} is labelled {labels[folder]} in {_STUDIES.format(split)}, against its folder's name"
            )
        if name in seen:
            raise DatasetError(f"{where}: {name} is listed twice")
        seen.add(name)
        study = f"XR_{found['part']}/{found['patient']}/{found['study']}"
        if folders.setdefault(study, folder) != folder:
            raise DatasetError(f"{where}: {study} is in {folders[study]} and in {folder}, so its label is not clear")
        rows.append(
            {
                "name": name,
                "image": str(listing.pictures / name),
                "label": label,
                "body_part": found["part"].lower(),
                "patient_id": found["patient"],
                "study_id": study,
                "view": int(view[1]),
            }
        )
    without = sorted(set(labels or ()) - set(folders.values()))
    if without and (tree / listed).is_file():
        raise DatasetError(
            f"{tree / listed} lists no image of {len(without)} labelled studies, such as {without[0]}; get a "
            "whole copy"
        )
    return sorted(rows, key=lambda row: (row["study_id"], row["view"]))


def _look(listing: Listing, split: str, wanted: Sequence[str]) -> list[Row]:
    """The rows of the wanted parts that are there; notes what is not."""
    studies: dict[str, list[Row]] = {}
    for row in listing.rows[split]:
        if row["body_part"] in wanted:
            studies.setdefault(os.path.dirname(row["name"]), []).append(row)
    present: list[Row] = []
    for folder, rows in studies.items():
        try:
            there = {name for name in os.listdir(listing.pictures / folder) if not name.startswith(".")}
        except OSError:
            listing.absent.append(folder)
            continue
        for row in rows:
            if row["name"] in listing.quarantined:
                continue
            if os.path.basename(row["name"]) in there:
                present.append(row)
            else:
                listing.missing.append(row["name"])
        listing.unlisted += [f"{folder}/{name}" for name in sorted(there - {Path(row["name"]).name for row in rows})]
    return present
