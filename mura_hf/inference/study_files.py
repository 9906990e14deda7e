"""Finds studies in a folder, a ZIP file or a table."""

import os
import posixpath
import re
import struct
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..common import read_csv, read_json_lines
from ..errors import DatasetError, RadiographError
from ..models import BODY_PARTS
from ..radiographs import HEAD_BYTES, MAX_BYTES, find_kind, is_hidden

MAX_FILES = 200_000
"""Limit per folder, ZIP or CSV file; MURA has 40,000."""

TABLES = ("metadata.csv", "metadata.jsonl")
"""A table with one of these names says which files of its folder belong to which study."""

_MAX_TABLE = 8 << 20  # bytes of all tables in a ZIP file; a table of 40,000 files has 3 MB
_LABEL = re.compile(r"(?:(?<=/)|^)(study\d+)_(?:positive|negative)$")
_PART = re.compile(r"(?:^|/)XR_(?P<part>[A-Z]+)(?:/|$)")
_ZIP_ERRORS = (OSError, zipfile.BadZipFile, NotImplementedError, zlib.error, struct.error)
_MEMBER_ERRORS = (*_ZIP_ERRORS, RuntimeError, EOFError, ValueError, KeyError)  # RuntimeError: a password
_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "image"),
    "study": ("study_id", "study"),
    "patient": ("patient_id", "patient"),
    "body_part": ("body_part",),
}


@dataclass(frozen=True)
class StudyFile:
    """One view."""

    name: str  # file name without its folder
    path: Path  # path of the file, or of the ZIP file that contains it
    member: str | None = None  # name inside the ZIP file; None for a plain file
    readable: bool = True  # false if its first bytes already show that `read_radiograph` will refuse it

    def content(self, max_bytes: int | None = None) -> Path | bytes:
        """Returns the input of `read_radiograph`: the path, or the content of a member of a ZIP file.

        Raises:
            RadiographError: If it cannot be extracted, or has more than `max_bytes` (`MAX_BYTES` by default).
        """
        max_bytes = MAX_BYTES if max_bytes is None else max_bytes
        if self.member is None:
            return self.path
        try:
            with zipfile.ZipFile(self.path) as opened:
                content = _read_member(opened, opened.getinfo(self.member), max_bytes + 1)
        except KeyError:
            raise RadiographError(
                f"{self.name} cannot be extracted from {self.path.name}, which has no file of this name; add it, or "
                "correct the table"
            ) from None
        except _MEMBER_ERRORS as error:
            raise RadiographError(
                f"{self.name} cannot be extracted from {self.path.name} ({error}); pack it again, as an ordinary ZIP "
                "file without a password"
            ) from error
        if len(content) > max_bytes:
            raise RadiographError(f"{self.name} is larger than {max_bytes >> 20} MiB, the limit for a radiograph.")
        return content


@dataclass(frozen=True)
class StudyFiles:
    """The views of one study."""

    # Path of its folder relative to the source, or its name in a table, preceded by the patient if the table uses
    # names for several patients. The label in the names of MURA's folders is removed, as in `load_mura`.
    name: str
    # Its views, sorted by name, with pictures that cannot be read. Empty for a folder without any.
    files: tuple[StudyFile, ...]
    body_part: str | None = None  # body part according to the folder name (MURA's "XR_WRIST") or the table, else None


def find_studies(source: str | os.PathLike[str]) -> list[StudyFiles]:
    """Finds the studies of a source, sorted by name.

    The content of a file decides whether it is a view, not its name. Texts, office documents, hidden files and those
    of the system are left out; all others belong to their study, and reading those says why they cannot be read. A
    folder without files of its own and without subfolders is a study without views.

    Args:
        source: A folder, in which each subfolder with images is a study; a ZIP file of such folders; or a table, as
            CSV or JSON Lines: either in MURA's format (one path per line) or with a header with `path` (or
            `file_name`), and optionally `study_id`, `patient_id` and `body_part`. A study is identified by patient and
            study. Without `study_id` the files of a folder are a study. Paths in a table are relative to its folder
            or, as in MURA, to the parent of that. A table in a folder or ZIP file that is named as in `TABLES` says
            which files are a study there.

    Raises:
        DatasetError: If it does not exist, cannot be read, has no images, has more than `MAX_FILES` files, or a table
            gives a study several body parts.
    """
    source = Path(source)
    if source.is_dir():
        found = _in_folder(source)
    elif not source.is_file():
        raise DatasetError(f"{source} does not exist; name a folder, a ZIP file or a CSV file")
    elif zipfile.is_zipfile(source):
        found = _in_zip(source)
    elif source.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        found = _in_table(source)
    else:
        raise DatasetError(f"{source} is neither a folder nor a ZIP or CSV file, from which studies could be read")
    studies = _group(found, source)
    if not any(study.files for study in studies):
        raise DatasetError(f"{source} holds no picture that could be a radiograph (such as PNG, JPEG, TIFF or DICOM)")
    return studies


class _Found(NamedTuple):
    study: str
    file: StudyFile | None  # None: a folder without views
    body_part: str | None = None
    patient: str = ""


def _in_folder(root: Path) -> Iterator[_Found]:
    count = 0
    part = whole["part"].lower() if (whole := _PART.search(root.resolve().as_posix())) else None
    listed: set[Path] = set()
    for place, folders, names in os.walk(root, onerror=_raise, followlinks=False):
        folder = Path(place)
        for link in filter(Path.is_symlink, (folder / name for name in folders)):
            raise DatasetError(f"{link} is a link to a folder, and links are not followed; name that folder itself")
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        inside = folder.relative_to(root).as_posix()
        for table in [name for name in TABLES if name in names][:1]:
            for found in _in_table(folder / table, needs_header=True):
                listed.update((found.file.path, found.file.path.parent) if found.file else ())
                yield found if inside == "." else found._replace(study=f"{inside}/{found.study}")
        kinds = {
            StudyFile(file.name, file, readable=kind == "view"): kind
            for file in (folder / name for name in names)
            if file not in listed and (kind := find_kind(file))
        }
        count += len(kinds)
        _check_count(root, count)
        for view in _choose(kinds, is_leaf=not folders and folder not in listed):
            yield _Found(root.name if inside == "." else inside, view, part)


def _in_zip(source: Path) -> Iterator[_Found]:
    try:
        with zipfile.ZipFile(source) as opened:
            _check_count(source, len(opened.infolist()))
            places = [PurePosixPath(member.filename.replace("\\", "/").lstrip("/")) for member in opened.infolist()]
            members = {
                place: member
                for place, member in zip(places, opened.infolist(), strict=True)
                if not any(map(is_hidden, place.parts))
            }

            listed: set[PurePosixPath] = set()
            room = _MAX_TABLE
            for place in [place for place in members if place.name in TABLES]:
                content = _read_member(opened, members[place], room + 1)
                room -= len(content)
                if room < 0:
                    raise DatasetError(
                        f"{source.name}: with {place}, its tables are larger than {_MAX_TABLE >> 20} MiB; split it"
                    )
                prefix = f"{place.parent}/" if place.parent.name else ""
                for _, name, found in _read_table(content, f"{source.name}, {place}", needs_header=True):
                    file = PurePosixPath(posixpath.normpath(place.parent / name))
                    listed.update((file, file.parent))
                    # Reading a file that does not exist will say so.
                    member = members[file].filename if file in members else file.as_posix()
                    yield found._replace(study=prefix + found.study, file=StudyFile(file.name, source, member))
            folders: dict[PurePosixPath, dict[StudyFile, str]] = {}
            for place, info in members.items():
                kinds = folders.setdefault(place if info.is_dir() else place.parent, {})
                if info.is_dir() or place in listed:
                    continue
                if kind := find_kind(place, partial(_read_head, opened, info)):
                    kinds[StudyFile(place.name, source, info.filename, kind == "view")] = kind
            parents = {folder.parent for folder in folders if folder.name}
            for folder, kinds in folders.items():
                for view in _choose(kinds, is_leaf=folder not in parents and folder not in listed):
                    yield _Found(folder.as_posix() if folder.name else source.stem, view)
    except _MEMBER_ERRORS as error:
        raise DatasetError(f"{source.name} is damaged or needs a password ({error}); pack it again") from error


def _choose(kinds: dict[StudyFile, str], *, is_leaf: bool) -> list[StudyFile | None]:
    """Returns the files of a folder that belong to its study; None for a study without files."""
    if not is_leaf and set(kinds.values()) <= {"unknown"}:  # such as a data file above the folders of studies
        return []
    return [*kinds] or [None]


def _read_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> bytes:
    """Reads a member, at most `max_bytes` of it, whatever size the ZIP file names.

    BZIP2 and LZMA are not read: `zipfile` unpacks all of them, where 2 kB may become gigabytes.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{member.filename} is compressed in a way that is not read here")
    with opened.open(member) as file:
        return file.read(max_bytes)


def _read_head(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return _read_member(opened, member, HEAD_BYTES)
    except _MEMBER_ERRORS:
        return b""


def _in_table(source: Path, *, needs_header: bool = False) -> Iterator[_Found]:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DatasetError(f"{source} cannot be read ({error.strerror}); check its permissions") from error
    for where, place, found in _read_table(content, str(source), needs_header=needs_header):
        try:
            files = [Path(os.path.normpath(root / place)) for root in (source.parent, source.parent.parent)]
            file = next(filter(Path.is_file, files), files[0])
        except OSError as error:  # an impossible file name
            raise DatasetError(f"{where}: the path cannot be looked up ({error.strerror}); correct it") from error
        yield found._replace(file=StudyFile(file.name, file))


def _read_table(content: bytes, source: str, *, needs_header: bool) -> Iterator[tuple[str, str, _Found]]:
    """Yields line, path and study of each row of a table; none if it needs a header and has no column with paths."""
    try:
        read = read_json_lines if source.endswith(".jsonl") else read_csv
        lines = read(content, MAX_FILES + 2)
    except ValueError as error:
        raise DatasetError(f"{source} {error}") from error
    _check_count(source, len(lines) - 1)
    header = [cell.lower() for cell in lines[0][1]] if lines else []
    known = {
        what: next((header.index(name) for name in names if name in header), -1) for what, names in _COLUMNS.items()
    }
    if known["path"] < 0:
        if needs_header:
            return
        if any(len(line) != 1 for _, line in lines):
            raise DatasetError(
                f"{source} has no column `path`; give a header with path, study_id and perhaps patient_id and "
                "body_part, or one path per line without a header"
            )
        known["path"] = 0
    else:
        lines = lines[1:]
    for number, line in lines:
        where = f"{source}, line {number}"
        if len(line) <= max(known.values()):
            raise DatasetError(f"{where}: has fewer cells than the header; correct the line")
        cells = {what: line[index] for what, index in known.items() if index >= 0}
        place = cells["path"].replace("\\", "/")
        parent = PurePosixPath(place).parent
        row = {"file": place, "study": parent.as_posix() if parent.name else place, **cells}
        absent = [what for what in ("file", "study", "patient") if not row.get(what, "?")]
        if absent:
            raise DatasetError(f"{where}: has no {absent[0]} name; correct the line")
        part = cells.get("body_part", "").lower().removeprefix("xr_")
        if part and part not in BODY_PARTS:
            raise DatasetError(f"{where}: unknown body part {part!r}; choose one of {', '.join(BODY_PARTS)}")
        yield where, place, _Found(row["study"], None, part or None, row.get("patient", ""))


def _group(found: Iterable[_Found], source: Path) -> list[StudyFiles]:
    found = list(islice(found, MAX_FILES + 1))  # a small table may have many lines, and a ZIP file many tables
    _check_count(source, len(found))
    patients = defaultdict(set)
    for one in found:
        patients[one.study].add(one.patient)
    are_shared = any(len(names) > 1 for names in patients.values())
    files: dict[str, list[StudyFile]] = {}
    parts: dict[str, str] = {}
    origins: dict[str, tuple[str, str]] = {}
    for study, file, part, patient in found:
        place = f"{patient}/{study}" if are_shared and patient else study
        if origins.setdefault(place, (patient, study)) != (patient, study):
            raise DatasetError(f"{source}: two studies would be called {place}; rename one")
        files.setdefault(place, []).extend([file] if file else [])
        named = _PART.search(place)
        known = part or (named["part"].lower() if named else None)
        if known in BODY_PARTS and parts.setdefault(place, known) != known:
            raise DatasetError(
                f"{source}: study {place} has the body parts {parts[place]} and {known}, but a study has one; correct "
                "the table"
            )
    # Without the label; for folders of MURA also without what precedes them, as in `load_mura`.
    bare = {place: _LABEL.sub(r"\1", place) for place in files}
    short = {
        place: name[named.start() :].lstrip("/") if (named := _PART.search(place)) and _LABEL.search(place) else name
        for place, name in bare.items()
    }
    often = Counter(name for place in files for name in {short[place], bare[place]})
    studies = [
        StudyFiles(
            next(name for name in (short[place], bare[place], place) if often[name] == 1 or name == place),
            tuple(sorted(views, key=lambda view: _natural(view.name))),
            parts.get(place),
        )
        for place, views in files.items()
    ]
    return sorted(studies, key=lambda study: _natural(study.name))


def _raise(error: OSError) -> None:
    raise DatasetError(f"{error.filename} cannot be read ({error.strerror}); its studies would be missing") from error


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts image10 behind image2."""
    cells = re.split(r"([0-9]{1,18})", name)
    return [(bool(place % 2), int(cell) if place % 2 else 0, cell) for place, cell in enumerate(cells)]


def _check_count(source: Path | str, count: int) -> None:
    if count > MAX_FILES:
        raise DatasetError(f"{source} holds more than {MAX_FILES:,} files; give it in parts")
