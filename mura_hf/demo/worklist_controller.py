"""`WorklistController`: what the tab "Worklist" does, apart from its components."""

import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr

from ..errors import DatasetError, RadiographError
from ..inference import (
    OOD_WARNING,
    StudyFile,
    StudyFiles,
    StudyPredictor,
    WorklistRow,
    find_studies,
    predict_rows,
    sort_rows,
)
from ..inference.prediction import OUT_OF_DISTRIBUTION
from ..inference.worklist import write_worklist
from ..radiographs import GuardedReader, Radiograph
from . import templates
from .examples import load_examples
from .reading import MAX_UNPACKED, MAX_VIEWS, check_zip, is_zip, pixels_per_view, read_view
from .result import known_point
from .state import AppContext, LatestRequests, Limits
from .templates import BANDS, operating_point_text, render, threshold_text
from .viewer import image_url

_MAX_NAME = 100  # characters
_THUMB_SIDE = 56  # pixels
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*\ud800-\udfff]')
_PAUSE = 0.5  # seconds between two updates
_ROWS_PER_SECOND = 150  # that the table may be written again while it grows, so that slow browsers stay usable


@dataclass(frozen=True)
class WorklistProgress:
    """How much of a worklist was read."""

    rows: list[WorklistRow]  # in the order of reading; the list goes on growing
    total: int
    seconds: float
    show: bool  # whether the table should be updated
    ended: bool = False


@dataclass(frozen=True)
class OpenedStudy:
    """A study of the worklist to be opened in the tab "Read a study"."""

    files: list[str]  # paths of its views on the server
    body_part: str | None


def gather_studies(source: Path, limits: Limits, *, must_be_zip: bool = False) -> list[StudyFiles]:
    """Finds the studies of a worklist. An upload must be a ZIP file: a table could name files of the server.

    Raises:
        DatasetError: If there are none or too many. The message does not contain the path on the server.
    """
    try:
        if must_be_zip or (source.is_file() and is_zip(source)):
            check_zip(source)
        studies = find_studies(source)
    except DatasetError as error:
        raise DatasetError(f"{str(error).replace(str(source), source.name).rstrip('.')}.") from error
    if len(studies) > limits.studies:
        values = {"name": source.name, "count": len(studies), "most": limits.studies}
        raise DatasetError(templates.TOO_MANY_STUDIES.format(**values))
    return studies


def example_worklist() -> list[StudyFiles]:
    """The phantom studies that visitors can try."""
    return [
        StudyFiles(
            templates.PHANTOM.format(number), tuple(StudyFile(file.name, file) for file in map(Path, one.files))
        )
        for number, one in enumerate(load_examples("worklist"), 1)
    ]


def read_worklist(
    predictor: StudyPredictor,
    studies: Sequence[StudyFiles],
    reader: GuardedReader,
    *,
    operating_point: str | None = None,
    stop: Event | None = None,
    max_seconds: float = math.inf,
    thumbnails: dict[str, str] | None = None,
) -> Iterator[WorklistProgress]:
    """Reads studies like `predict_rows`, and yields the progress about every half second.

    A study with more than `MAX_VIEWS` views is not read. Reading ends after the current study if `stop` is set or
    `max_seconds` are over. `thumbnails` gets a small picture of each study, as a data URL by its name.

    Raises:
        ValueError: If the checkpoint has no such operating point.
    """
    rows: list[WorklistRow] = []
    readable: list[StudyFiles] = []
    for study in studies:
        if len(study.files) <= MAX_VIEWS:
            readable.append(study)
            continue
        error = templates.FOLDER_TOO_LARGE.format(count=len(study.files), most=MAX_VIEWS)
        rows.append(WorklistRow(study.name, body_part=study.body_part, error=error, checkpoint=predictor.checkpoint))
    start = updated = shown = time.monotonic()
    yield WorklistProgress(rows, len(studies), 0.0, show=bool(rows))

    def read(file: StudyFile, study: StudyFiles) -> Radiograph:
        radiograph = read_view(reader, file, pixels_per_view(len(study.files)))
        if thumbnails is not None and study.name not in thumbnails:
            thumbnails[study.name] = image_url(radiograph.pixels, _THUMB_SIDE, quality=60)
        return radiograph

    coming = predict_rows(predictor, readable, operating_point=operating_point, read=read)
    while not (stop is not None and stop.is_set()) and time.monotonic() - start < max_seconds:
        row = next(coming, None)
        if row is None:
            break
        rows.append(row)
        now = time.monotonic()
        if now - updated >= _PAUSE:
            show = now - shown >= max(_PAUSE, len(rows) / _ROWS_PER_SECOND)
            updated, shown = now, now if show else shown
            yield WorklistProgress(rows, len(studies), now - start, show)
    coming.close()  # type: ignore[attr-defined]  # a generator; this ends its thread
    yield WorklistProgress(rows, len(studies), time.monotonic() - start, show=True, ended=True)


def band_of(row: WorklistRow) -> str:
    """Key into `BANDS`."""
    return "failed" if row.probability is None or row.band is None else row.band


def worklist_html(
    rows: Iterable[WorklistRow],
    numbers: Mapping[str, int],
    common: Sequence[str] = (),
    version: str = "",
    thumbnails: Mapping[str, str] | None = None,
) -> str:
    """The table, most likely abnormal first. `static/worklist.js` sorts and filters it.

    Args:
        rows: Rows in any order.
        numbers: Number of each study by its name. The script opens studies by number, since a name may be anything.
        common: Warnings about all studies. They are shown once above the table.
        version: Differs whenever the rows differ, so that the script notices.
        thumbnails: A small picture of each study, as a data URL by its name.
    """
    ordered = sort_rows(rows)
    if not ordered:
        return ""
    values = [
        {**_row_values(row, numbers[row.study], common), "thumbnail": (thumbnails or {}).get(row.study)}
        for row in ordered
    ]
    return render(
        "worklist",
        rows=values,
        version=version,
        notices=[*common, *[templates.NOT_ANSWERED] * any(row["band"] == OUT_OF_DISTRIBUTION for row in values)],
        columns=templates.COLUMNS,
        bands=[(key, f"{sign} {text.capitalize()}") for key, (sign, text) in BANDS.items()],
        parts=[(part, part) for part in sorted({row["part"] for row in values})],
    )


def _row_values(row: WorklistRow, number: int, common: Sequence[str]) -> dict[str, Any]:
    band = band_of(row)
    sign, text = BANDS[band]
    notes = [] if row.error is None else [row.error]
    notes += [templates.NOTE_LEFT_OUT.format(sentence) for sentence in row.left_out]
    notes += [warning for warning in row.warnings if warning not in (*common, OOD_WARNING)]
    return {
        "number": number,
        "name": row.study,
        "part": row.body_part or (templates.PROBABLY.format(row.region) if row.region else templates.UNKNOWN_PART),
        "band": band,
        "sign": sign,
        "text": text.capitalize(),
        "chance": None if band in (OUT_OF_DISTRIBUTION, "failed") else row.probability,
        "n_views": row.n_views,
        "notes": notes,
    }


def summary_text(rows: Sequence[WorklistRow]) -> str:
    """The number of studies in each band."""
    counts = Counter(map(band_of, rows))
    return ", ".join(f"{counts[key]:,} {text}" for key, (_, text) in BANDS.items() if counts[key])


def waiting_html(sentence: str) -> str:
    """The progress before the first study is read."""
    return render("worklist_progress", ended=False, total=0, summary=sentence)


def worklist_progress_html(progress: WorklistProgress, summary: str = "") -> str:
    """The progress: number of studies, studies a second and the time left. Screen readers hear every tenth."""
    done, total, seconds = len(progress.rows), progress.total, progress.seconds
    rate = done / seconds if seconds else 0.0
    if not progress.ended:
        seconds = (total - done) / rate if rate else 0.0
    return render(
        "worklist_progress",
        ended=progress.ended, done=done, total=total, rate=rate, time=_time_text(seconds), summary=summary,
    )  # fmt: skip


def _time_text(seconds: float) -> str:
    seconds = max(1, round(seconds))
    if seconds < 90:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class WorklistController:
    """Answers what visitors ask about worklists. Thread-safe."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self._latest = LatestRequests()

    def begin(self, session: str) -> None:
        """Makes it possible to stop the next worklist of a session."""
        self._latest.begin(session)

    def stop(self, session: str) -> None:
        """Stops a worklist after the current study."""
        if (event := self._latest.find(session)) is not None:
            event.set()

    def gather(self, upload: str | None, path: str) -> list[StudyFiles]:
        """Finds the studies in an uploaded ZIP file, or in a folder or file of this machine.

        Raises:
            DatasetError: If there are none, or both ways were used.
        """
        path = path.strip()
        if upload and path:
            raise DatasetError(templates.TWO_SOURCES)
        if not (upload or path):
            raise DatasetError(templates.NO_SOURCE)
        if upload:
            return gather_studies(Path(upload), self.context.limits, must_be_zip=True)
        return gather_studies(Path(path).expanduser(), self.context.limits)

    def read(
        self, session: str, predictor: StudyPredictor, studies: list[StudyFiles], operating_point: str | None
    ) -> Iterator[tuple[str, Any, Any, Any]]:
        """Reads studies. Yields HTML of the progress, HTML of the table, and at the end the CSV and JSON files."""
        numbers = {study.name: number for number, study in enumerate(studies)}
        point, threshold = predictor.find_threshold(known_point(predictor, operating_point))
        thumbnails: dict[str, str] = {}
        for progress in read_worklist(
            predictor, studies, self.context.reader,
            operating_point=point, stop=self._latest.find(session), max_seconds=self.context.limits.seconds,
            thumbnails=thumbnails,
        ):  # fmt: skip
            self.context.uploads.hold(session)  # a visitor who waits is active
            rows = progress.rows
            table: Any = gr.skip()
            if progress.show:
                version = f"{len(rows)} {progress.ended}"
                table = worklist_html(rows, numbers, predictor.warnings, version, thumbnails)
            if not progress.ended:
                yield worklist_progress_html(progress), table, gr.skip(), gr.skip()
                continue
            summary = f"{summary_text(rows).capitalize()}. " if rows else ""
            if len(studies) == 1 and (n_pictures := len(studies[0].files)) > 1:
                summary += templates.ONE_STUDY.format(n_pictures)
            summary += templates.SUMMARY.format(
                checkpoint=predictor.checkpoint, threshold=threshold_text(threshold), point=operating_point_text(point)
            )
            yield worklist_progress_html(progress, summary), table, *self._write_files(session, rows)

    def open(
        self, session: str, studies: list[StudyFiles], number: Any, last: OpenedStudy | None = None
    ) -> tuple[OpenedStudy, list[str]]:
        """Copies the views of a study to files of its own, and removes those of the study that was opened before.

        The number comes from the page and may be anything. Also returns sentences about views that were left out.

        Raises:
            DatasetError: If there is no such study, or none of its views exists any more.
        """
        if type(number) is not int or not 0 <= number < len(studies):
            raise DatasetError(templates.NOT_LISTED)
        study = studies[number]
        uploads = self.context.uploads
        room = min(self.context.limits.upload_bytes, uploads.quota - uploads.used_bytes())
        paths, problems = copy_views(study.files[:MAX_VIEWS], uploads.new_folder(session), room)
        if not paths:
            raise DatasetError(" ".join([templates.CANNOT_OPEN, *problems]))
        if len(study.files) > MAX_VIEWS:
            problems.append(templates.MORE_VIEWS.format(most=MAX_VIEWS, rest=len(study.files) - MAX_VIEWS))
        if last is not None:
            shutil.rmtree(Path(last.files[0]).parent, ignore_errors=True)
        return OpenedStudy(paths, study.body_part), problems

    def _write_files(self, session: str, rows: list[WorklistRow]) -> list[Any]:
        if not rows:
            return [gr.update(value=None, visible=False)] * 2
        folder = self.context.uploads.new_folder(session)
        files = [folder / "worklist.csv", folder / "worklist.json"]
        for file in files:
            write_worklist(sort_rows(rows), file)
        return [gr.update(value=str(file), visible=True) for file in files]


def copy_views(files: Sequence[StudyFile], folder: Path, max_bytes: int) -> tuple[list[str], list[str]]:
    """Copies the views of one study into an empty folder, also from a ZIP file, at most `max_bytes` together.

    Returns:
        Paths of the copies in order, and a sentence about each view that could not be copied.
    """
    paths: list[str] = []
    problems: list[str] = []
    taken: set[str] = set()
    for number, file in enumerate(files, 1):
        try:
            content = file.content(MAX_UNPACKED)
            content = content.read_bytes() if isinstance(content, Path) else content
        except RadiographError as error:
            problems.append(str(error))
            continue
        except OSError:
            problems.append(templates.VIEW_GONE.format(file.name))
            continue
        max_bytes -= len(content)
        if max_bytes < 0:
            problems.append(templates.NO_ROOM.format(file.name))
            break
        name = safe_name(file.name)
        if name.casefold() in taken:
            name = f"{number}_{name}"
        taken.add(name.casefold())
        (folder / name).write_bytes(content)
        paths.append(str(folder / name))
    return paths, problems


def safe_name(name: str) -> str:
    """A file name that every system accepts, with the same suffix."""
    plain = _UNSAFE.sub("_", name).strip(". ") or "view"
    if len(plain) <= _MAX_NAME:
        return plain
    suffix = Path(plain).suffix[:9]
    return plain[: _MAX_NAME - len(suffix)] + suffix
