"""Reads uploaded files: ZIP checks, decoding in separate processes, and the prediction for one study."""

import struct
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError, RadiographError
from ..inference import StudyFile, StudyPrediction, StudyPredictor, find_studies
from ..radiographs import GuardedReader, Radiograph
from . import templates

MAX_VIEWS = 16
"""Of one study, because all views go through the model at once. MURA has 13 at most."""

MAX_ARCHIVES = 4
"""ZIP files of one study, because searching one may take seconds."""

MAX_DIRECTORY = 24 << 20
"""Bytes of the member list of a ZIP file. 200,000 members with names like those of MURA need as much."""

STUDY_PIXELS = 64_000_000
"""Of all views of one study together. A view takes at most its share, and at most a quarter: 16 megapixels are more
than a flat-panel detector has, so views are reduced only if there are many large ones."""

MAX_UNPACKED = 96 << 20
"""Bytes of a view in a ZIP file, which is unpacked in memory. 40 megapixels of 16 bits need 76 MiB."""

Progress = Callable[[int, int, str], None]
"""Gets the number of files that were read, the total, and the name of the last one."""

_N_THREADS = 2  # the number of processes of a guarded reader
_END, _END_64 = b"PK\5\6", b"PK\6\6"
_TAIL = (1 << 16) + 22 + 20 + 56  # longest comment, and the records that may end the member list


@dataclass(frozen=True)
class StudyReading:
    """What was read of one study.

    Attributes:
        study: The prediction; None if no file could be read.
        radiographs: The views of the prediction.
        problems: A sentence about each file that was left out.
        n_unusual: Number of views that were left out because they do not look like those of training.
    """

    study: StudyPrediction | None
    radiographs: list[Radiograph]
    problems: list[str]
    n_unusual: int = 0


def read_study(
    predictor: StudyPredictor,
    reader: GuardedReader,
    files: Sequence[str],
    body_part: str | None,
    *,
    progress: Progress | None = None,
    skip_unusual: bool = False,
    **options: Any,
) -> StudyReading:
    """Reads the files of one study as `read_files` does, and predicts from those that can be read.

    With `skip_unusual`, views that do not look like those of training are left out, unless all views are like that.
    `options` are those of the predictor, whose errors are passed on.
    """
    names, radiographs, problems = read_files(reader, files, progress=progress)
    if not radiographs:
        return StudyReading(None, [], problems)
    study = predictor(radiographs, body_part=body_part, names=names, **options)
    known = [place for place, view in enumerate(study.views) if view.in_distribution is not False]
    n_unusual = len(radiographs) - len(known)
    if not skip_unusual or n_unusual == 0 or not known:
        return StudyReading(study, radiographs, problems)
    problems += [templates.UNUSUAL_LEFT_OUT.format(view.name) for view in study.views if view.in_distribution is False]
    names, radiographs = [names[place] for place in known], [radiographs[place] for place in known]
    study = predictor(radiographs, body_part=body_part, names=names, **options)
    return StudyReading(study, radiographs, problems, n_unusual)


def read_files(
    reader: GuardedReader, files: Sequence[str], *, progress: Progress | None = None
) -> tuple[list[str], list[Radiograph], list[str]]:
    """Reads the views of one study, two at a time. A ZIP file may contain the study.

    Args:
        reader: Decodes the files in separate processes.
        files: Paths of the views, or of ZIP files.
        progress: Called in this thread after each file, and once before the first.

    Returns:
        Names and radiographs of the readable files in the given order, and a sentence about each other file.
    """
    views, problems = _find_views(files)
    if len(views) > MAX_VIEWS:
        more = ", ".join(view.name for view in views[MAX_VIEWS:])
        problems.append(templates.TOO_MANY_VIEWS.format(most=MAX_VIEWS, names=more))
        del views[MAX_VIEWS:]
    if progress is not None and views:
        progress(0, len(views), views[0].name)
    names, radiographs, unreadable, max_pixels = [], [], [], pixels_per_view(len(views))

    def read(view: StudyFile) -> Radiograph | str:
        try:
            return read_view(reader, view, max_pixels)
        except RadiographError as error:
            return str(error)  # the error itself would keep the content of the file in memory

    with ThreadPoolExecutor(_N_THREADS, thread_name_prefix="views") as pool:
        reading = {pool.submit(read, view): view for view in views}
        for done, future in enumerate(as_completed(reading), 1):
            if progress is not None:
                progress(done, len(views), reading[future].name)
    for future, view in reading.items():
        result = future.result()
        if isinstance(result, str):
            unreadable.append(result)
        else:
            radiographs.append(result)
            names.append(view.name)
    return names, radiographs, [*unreadable, *problems]


def pixels_per_view(n_views: int) -> int:
    """Pixels that each view of a study may have."""
    return STUDY_PIXELS // max(n_views, 4)


def read_view(reader: GuardedReader, view: StudyFile, max_pixels: int) -> Radiograph:
    """Reads one view in a separate process, which reduces it to `max_pixels`.

    Raises:
        RadiographError: If it cannot be read; the message says why.
    """
    content = view.content(MAX_UNPACKED)
    if isinstance(content, Path) and not content.is_file():
        raise RadiographError(templates.NO_LONGER_HERE.format(view.name))
    return reader.read(content, name=view.name, max_pixels=max_pixels)


def is_zip(file: Path) -> bool:
    """Whether a file is a ZIP file by its name or its first bytes."""
    try:
        with file.open("rb") as opened:
            return file.suffix.lower() == ".zip" or opened.read(4) == b"PK\3\4"
    except OSError:
        return False


def check_zip(file: Path) -> None:
    """Checks a ZIP file before Python loads its whole member list into memory.

    Raises:
        DatasetError: If it is not a ZIP file, or its member list is larger than that of any worklist.
    """
    if file.is_file() and not zipfile.is_zipfile(file):
        raise DatasetError(templates.NO_ZIP.format(file.name))
    try:
        with file.open("rb") as opened:
            opened.seek(0, 2)
            opened.seek(max(0, opened.tell() - _TAIL))
            tail = opened.read()
    except OSError:
        raise DatasetError(templates.NO_LONGER_HERE.format(file.name)) from None
    sizes = _read_sizes(tail, _END, 12, "<L")
    sizes_64 = _read_sizes(tail, _END_64, 40, "<Q")
    if sizes_64:  # a size of all ones refers to the 64-bit record
        sizes = [size for size in sizes if size != 0xFFFFFFFF]
    if any(size > MAX_DIRECTORY for size in [*sizes, *sizes_64]):
        raise DatasetError(templates.ZIP_TOO_LARGE.format(file.name))


def _read_sizes(tail: bytes, mark: bytes, offset: int, kind: str) -> list[int]:
    """The sizes of the member list in all places that could be the record which ends it."""
    sizes, place = [], tail.find(mark)
    while place >= 0:
        if place + offset + struct.calcsize(kind) <= len(tail):
            sizes.append(struct.unpack_from(kind, tail, place + offset)[0])
        place = tail.find(mark, place + 1)
    return sizes


def _find_views(files: Sequence[str]) -> tuple[list[StudyFile], list[str]]:
    """The views, also those in ZIP files, and a sentence about each ZIP file that does not hold one study."""
    views, problems, n_archives = [], [], 0
    for file in map(Path, files):
        if not is_zip(file):
            views.append(StudyFile(file.name, file))
            continue
        n_archives += 1
        if n_archives > MAX_ARCHIVES:
            problems.append(templates.TOO_MANY_ZIPS.format(name=file.name, most=MAX_ARCHIVES))
            continue
        try:
            check_zip(file)
            found = find_studies(file)
        except DatasetError as error:
            problems.append(f"{str(error).replace(str(file), file.name).rstrip('.')}.")
            continue
        n_studies = sum(any(view.readable for view in study.files) for study in found)
        if n_studies <= 1:
            inside = [view for study in found for view in study.files]
            views.extend(sorted(inside, key=lambda view: not view.readable))  # reading the others says why not
        else:
            problems.append(templates.SEVERAL_STUDIES.format(name=file.name, count=n_studies))
    return views, problems
