"""Finds studies in a folder, a ZIP file or a CSV file."""

import csv
import io
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import DatasetError, RadiographError
from ..models import BODY_PARTS
from ..radiographs import MAX_BYTES

ENDINGS = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", "")
"""Extensions of views. DICOM archives often write files without one."""

MAX_FILES = 200_000
"""Limit per folder, ZIP or CSV file; MURA has 40,000."""

_NOT_VIEWS = re.compile(r"^(\..*|__MACOSX|DICOMDIR|Thumbs\.db|LICENSE|README|Makefile)$", re.IGNORECASE)
_LABEL = re.compile(r"(?:(?<=/)|^)(study\d+)_(?:positive|negative)$")
_PART = re.compile(r"(?:^|/)XR_(?P<part>[A-Z]+)(?:/|$)")
_ZIP_ERRORS = (OSError, zipfile.BadZipFile, NotImplementedError, zlib.error, lzma.LZMAError, struct.error)
_COLUMNS = {"path": ("path", "file", "filename", "file_name", "image"), "study": ("study_id", "study")}


@dataclass(frozen=True)
class StudyFile:
    """One view.

    Attributes:
        name: File name without its folder.
        path: Path of the file, or of the ZIP file that contains it.
        member: Name inside the ZIP file; None for a plain file.
    """

    name: str
    path: Path
    member: str | None = None

    def content(self) -> Path | bytes:
        """Returns the input of `read_radiograph`: the path, or the content of a member of a ZIP file.

        Raises:
            RadiographError: If it cannot be extracted.
        """
        if self.member is None:
            return self.path
        try:
            with zipfile.ZipFile(self.path) as opened, opened.open(self.member) as file:
                content = file.read(MAX_BYTES + 1)  # the size in the ZIP file is untrusted
        except (*_ZIP_ERRORS, RuntimeError, EOFError, ValueError, KeyError) as error:  # RuntimeError: a password
            raise RadiographError(
                f"{self.name} cannot be extracted from {self.path.name} ({error}); pack it again without a password"
            ) from error
        if len(content) > MAX_BYTES:
            raise RadiographError(f"{self.name} is larger than {MAX_BYTES >> 20} MiB, the limit for a radiograph.")
        return content


@dataclass(frozen=True)
class StudyFiles:
    """The views of one study.

    Attributes:
        name: Path of its folder relative to the source, or its name in a CSV file. The label in the names of MURA's
            folders is removed, as in `load_mura`.
        files: Its views, sorted by name.
        body_part: Body part according to the folder name (MURA's "XR_WRIST") or the CSV file, else None.
    """

    name: str
    files: tuple[StudyFile, ...]
    body_part: str | None = None


def find_studies(source: str | os.PathLike[str]) -> list[StudyFiles]:
    """Finds the studies of a source, sorted by name.

    Args:
        source: A folder, in which each subfolder with images is a study; a ZIP file of such folders; or a CSV file,
            either in MURA's format (one path per line) or with a header with `path`, `study_id` and optionally
            `body_part`. Paths in a CSV file are relative to its folder or, as in MURA, to the parent of that.

    Raises:
        DatasetError: If it does not exist, cannot be read, has no images, or more than `MAX_FILES` files.
    """
    source = Path(source)
    if source.is_dir():
        found = _in_folder(source)
    elif not source.is_file():
        raise DatasetError(f"{source} does not exist; name a folder, a ZIP file or a CSV file")
    elif zipfile.is_zipfile(source):
        found = _in_zip(source)
    elif source.suffix.lower() == ".csv":
        found = _in_csv(source)
    else:
        raise DatasetError(f"{source} is neither a folder nor a ZIP or CSV file, from which studies could be read")
    studies = _group(found)
    if not studies:
        raise DatasetError(f"{source} holds no picture (PNG, JPEG or DICOM)")
    return studies


_Found = tuple[str, StudyFile, str | None]  # study, file, body part


def _in_folder(root: Path) -> Iterable[_Found]:
    count = 0
    part = whole["part"].lower() if (whole := _PART.search(root.resolve().as_posix())) else None
    for folder, folders, names in os.walk(root, onerror=_raise, followlinks=False):
        for link in filter(Path.is_symlink, (Path(folder) / name for name in folders)):
            raise DatasetError(f"{link} is a link to a folder, and links are not followed; name that folder itself")
        folders[:] = sorted(name for name in folders if not _NOT_VIEWS.match(name))
        inside = Path(folder).relative_to(root).as_posix()
        for name in names:
            if _is_view(name):
                count += 1
                _check_count(root, count)
                yield root.name if inside == "." else inside, StudyFile(name, Path(folder) / name), part


def _in_zip(source: Path) -> Iterable[_Found]:
    try:
        with zipfile.ZipFile(source) as opened:
            members = opened.infolist()
    except (*_ZIP_ERRORS, ValueError) as error:
        raise DatasetError(f"{source.name} is damaged ({error}); pack it again") from error
    _check_count(source, len(members))
    for member in members:
        place = PurePosixPath(member.filename.replace("\\", "/"))
        if member.is_dir() or any(_NOT_VIEWS.match(part) for part in place.parts) or not _is_view(place.name):
            continue
        inside = place.parent.as_posix()
        study = source.stem if inside in (".", "/") else inside
        yield study, StudyFile(place.name, source, member.filename), None


def _in_csv(source: Path) -> Iterable[_Found]:
    try:
        rows = csv.reader(io.StringIO(source.read_text(encoding="utf-8-sig"), newline=""))
        lines = [(rows.line_num, cells) for cells in rows if any(cell.strip() for cell in cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{source} cannot be read as a CSV file ({error}); save it as UTF-8") from error
    _check_count(source, len(lines))
    header = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    path, study = (next((header.index(name) for name in names if name in header), None) for names in _COLUMNS.values())
    if path is None:
        if any(len(line) != 1 for _, line in lines):
            raise DatasetError(
                f"{source} has no column `path`; give a header with path, study_id and perhaps body_part, or one path "
                "per line without a header"
            )
        path = 0
    else:
        lines = lines[1:]
    part = header.index("body_part") if "body_part" in header else None
    for number, line in lines:
        try:
            place = line[path].strip()
            body_part = line[part].strip().lower() if part is not None else ""
            name = line[study].strip() if study is not None else PurePosixPath(place).parent.as_posix()
        except IndexError:
            raise DatasetError(f"{source}, line {number}: has fewer cells than the header; correct the line") from None
        if not place or not name or name == ".":
            raise DatasetError(
                f"{source}, line {number}: has no {'study' if place else 'file'} name; correct the line"
            )
        if body_part and body_part not in BODY_PARTS:
            raise DatasetError(
                f"{source}, line {number}: unknown body part {body_part!r}; choose one of {', '.join(BODY_PARTS)}"
            )
        try:
            roots = (source.parent, source.parent.parent)
            file = next((root / place for root in roots if (root / place).is_file()), None)
        except OSError as error:  # an impossible file name
            raise DatasetError(
                f"{source}, line {number}: the path cannot be looked up ({error.strerror}); correct the line"
            ) from error
        yield name, StudyFile(PurePosixPath(place).name, file or source.parent / place), body_part or None


def _group(found: Iterable[_Found]) -> list[StudyFiles]:
    files: dict[str, list[StudyFile]] = {}
    parts: dict[str, str] = {}
    for place, file, part in found:
        files.setdefault(place, []).append(file)
        named = _PART.search(place)
        known = part or (named["part"].lower() if named else None)
        if known in BODY_PARTS:
            parts.setdefault(place, known)
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


def _is_view(name: str) -> bool:
    ending = PurePosixPath(name).suffix.lower()
    return not _NOT_VIEWS.match(name) and (ending in ENDINGS or ending[1:].isdecimal())  # UIDs end in digits


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts image10 behind image2."""
    cells = re.split(r"([0-9]{1,18})", name)
    return [(bool(place % 2), int(cell) if place % 2 else 0, cell) for place, cell in enumerate(cells)]


def _check_count(source: Path, count: int) -> None:
    if count > MAX_FILES:
        raise DatasetError(f"{source} holds more than {MAX_FILES:,} files; give it in parts")
