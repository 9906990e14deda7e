"""Reads many studies while somebody looks on: what the tab "Worklist" does, without its components."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from threading import Event

from ..errors import DatasetError
from ..inference import StudyFile, StudyFiles, StudyPredictor, WorklistRow, find_studies, predict_rows
from ..radiographs import GuardedReader, Radiograph
from .limits import Limits
from .reading import MAX_VIEWS, read_view
from .zip_checks import check_zip, is_zip

_PAUSE = 0.5  # seconds between two words about the progress
_ROWS_A_SECOND = 500  # that a growing table may be written again


@dataclass(frozen=True)
class Stage:
    """How far a worklist is.

    Attributes:
        rows: Read so far, in the order of reading; the list goes on growing.
        total: Studies to be read.
        seconds: Since the beginning.
        show: Whether it is time to show the rows again.
        ended: Whether this is the last one.
    """

    rows: list[WorklistRow]
    total: int
    seconds: float
    show: bool
    ended: bool = False


def gather_studies(source: Path, limits: Limits) -> list[StudyFiles]:
    """Finds the studies of one worklist.

    Raises:
        DatasetError: If there are none, or more than may be. Where the file lies on the server is not told.
    """
    try:
        if source.is_file() and is_zip(source):
            check_zip(source)
        studies = find_studies(source)
    except DatasetError as error:
        raise DatasetError(f"{str(error).replace(str(source), source.name).rstrip('.')}.") from error
    if len(studies) > limits.studies:
        raise DatasetError(
            f"{source.name} holds {len(studies):,} studies, and a worklist may have {limits.studies:,} here; nothing "
            "was read. Give it in parts, or use scripts/predict.py on your own machine."
        )
    return studies


def read_worklist(
    predictor: StudyPredictor,
    studies: Sequence[StudyFiles],
    reader: GuardedReader,
    *,
    operating_point: str | None = None,
    stop: Event | None = None,
    most_seconds: float = math.inf,
) -> Iterator[Stage]:
    """Reads studies, and says about every half second how far it is; the rows are those of `predict_rows`.

    Args:
        predictor: Answers.
        studies: Of `gather_studies`. One of more than `MAX_VIEWS` views gets a row that says so.
        reader: Decodes the views, away from this process.
        operating_point: As for a call of the predictor.
        stop: Ends the reading after the study that is being read.
        most_seconds: After which it ends likewise.

    Raises:
        ValueError: If the checkpoint has no such operating point.
    """

    def read(file: StudyFile) -> Radiograph:
        return read_view(reader, file)

    rows = [_too_many(study, predictor) for study in studies if len(study.files) > MAX_VIEWS]
    fitting = [study for study in studies if len(study.files) <= MAX_VIEWS]
    begun = told = drawn = time.monotonic()
    yield Stage(rows, len(studies), 0.0, show=bool(rows))
    coming = predict_rows(predictor, fitting, operating_point=operating_point, read=read)
    while not (stop is not None and stop.is_set()) and time.monotonic() - begun < most_seconds:
        row = next(coming, None)
        if row is None:
            break
        rows.append(row)
        now = time.monotonic()
        if now - told >= _PAUSE:
            show = now - drawn >= max(_PAUSE, len(rows) / _ROWS_A_SECOND)
            drawn = now if show else drawn
            told = now
            yield Stage(rows, len(studies), now - begun, show)
    coming.close()  # type: ignore[attr-defined]  # a generator; it ends its thread
    yield Stage(rows, len(studies), time.monotonic() - begun, show=True, ended=True)


def _too_many(study: StudyFiles, predictor: StudyPredictor) -> WorklistRow:
    words = f"{len(study.files):,} views lie in one folder, and a study may have {MAX_VIEWS} here; nothing was read."
    return WorklistRow(study.name, body_part=study.body_part, error=words, checkpoint=predictor.checkpoint)


def waiting_html(words: str) -> str:
    """Before anything is read."""
    return f'<div class="worklist-progress"><p role="status">{escape(words)}</p><progress></progress></div>'


def stage_html(stage: Stage, after: str = "") -> str:
    """The progress: a bar, and how many of how many, studies a second, and the time left.

    Screen readers are told at every tenth, not at every change.

    Args:
        stage: How far it is.
        after: More words about the end.
    """
    done, total = len(stage.rows), stage.total
    if stage.ended:
        words = f"Read {done:,} of {total:,} studies in {_time_text(stage.seconds)}. {after}"
        stopped = "Stopped. " if done < total else ""
        return (
            f'<div class="worklist-progress"><p role="status">{escape(stopped + words)}</p>'
            f'<progress max="{total}" value="{done}" aria-label="Studies read"></progress></div>'
        )
    rate = done / stage.seconds if stage.seconds else 0.0
    pace = f" · {rate:.1f} studies a second · about {_time_text((total - done) / rate)} left" if rate else ""
    tenth = 10 * done // total * 10
    return (
        f'<div class="worklist-progress"><p><span class="unseen" role="status">{tenth} percent read</span>'
        f"Read <b>{done:,}</b> of {total:,} studies{pace}</p>"
        f'<progress max="{total}" value="{done}" aria-label="Studies read"></progress></div>'
    )


def _time_text(seconds: float) -> str:
    seconds = max(1, round(seconds))
    if seconds < 90:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
