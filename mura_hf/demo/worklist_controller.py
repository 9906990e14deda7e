"""A study of a worklist as files of its own, for the tab that shows one study.

Reads many studies while somebody looks on: what the tab "Worklist" does, without its components.
A worklist as an HTML table, to which `static/worklist.js` adds sorting, filtering and opening.

Names and sentences come from strangers and are escaped.
`WorklistDesk`: what the tab "Worklist" does, without its components.
"""

import math
import re
import shutil
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
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
from ..inference.worklist import write_worklist
from ..models import BODY_PARTS
from ..radiographs import GuardedReader, Radiograph
from .checkpoints import DEFAULT, Chosen
from .context import Limits, ReadingRoom
from .examples import EXAMPLES_CHECKPOINT
from .reading import MAX_VIEWS, read_view
from .result import chance_text, operating_point_words
from .uploads import check_zip, is_zip

_LENGTH = 100  # characters of a name
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*\ud800-\udfff]')


def write_views(files: Sequence[StudyFile], folder: Path) -> tuple[list[str], list[str]]:
    """Copies views into a folder.

    Args:
        files: Of one study.
        folder: An empty one.

    Returns:
        Paths of the copies, in order, and a sentence about each view that could not be had.
    """
    paths, problems = [], []
    taken: set[str] = set()
    for number, file in enumerate(files, 1):
        try:
            content = file.content()
            content = content.read_bytes() if isinstance(content, Path) else content
        except RadiographError as error:
            problems.append(str(error))
            continue
        except OSError:
            problems.append(f"{file.name} is no longer there, so it was left out.")
            continue
        name = safe_name(file.name)
        if name.casefold() in taken:
            name = f"{number}_{name}"
        taken.add(name.casefold())
        place = folder / name
        place.write_bytes(content)
        paths.append(str(place))
    return paths, problems


def safe_name(name: str) -> str:
    """A file name that any system takes, with the ending kept."""
    plain = _UNSAFE.sub("_", name).strip(". ") or "view"
    if len(plain) <= _LENGTH:
        return plain
    stem, dot, ending = plain.rpartition(".")
    return plain[:_LENGTH] if not dot or len(ending) > 8 else f"{stem[: _LENGTH - len(ending) - 1]}.{ending}"


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


NO_PART = "not told"
BANDS = {
    "abnormal": ("▲", "Flagged"),
    "uncertain": ("◐", "Uncertain"),
    "normal": ("○", "Nothing flagged"),
    "strange": ("⊘", "Strange, not answered"),
    "failed": ("✕", "No answer"),
}
"""Sign and words of each, in the order of the column."""

_COLUMNS = (
    ("study", "Study"),
    ("part", "Body part"),
    ("chance", "P(abnormal)"),
    ("band", "Answer"),
    ("views", "Views"),
    ("notes", "Notes"),
)
_STRANGE = (
    "Strange studies do not look like the radiographs that the checkpoint was trained on, so its answer about them "
    "may mean nothing. It stands in the files, and opening such a study shows it on request."
)


def band_of(row: WorklistRow) -> str:
    """Key into `BANDS`."""
    if row.probability is None or row.band is None:
        return "failed"
    return "strange" if row.in_distribution is False else row.band


def worklist_html(
    rows: Iterable[WorklistRow], places: Mapping[str, int], common: Sequence[str] = (), version: str = ""
) -> str:
    """The table, most likely abnormal first.

    A row tells the page's script which study to open by a number, since a name may hold anything.

    Args:
        rows: In any order.
        places: Name of a study -> its number.
        common: Sentences that belong beside every answer; they are left out of the rows and stand above the table.
        version: Differs wherever the rows do, so that the script notices.
    """
    ordered = sort_rows(rows)
    if not ordered:
        return ""
    body = "".join(_row_html(row, rank, places[row.study], common) for rank, row in enumerate(ordered))
    heads = "".join(
        f'<th scope="col" role="columnheader" aria-sort="{"descending" if key == "chance" else "none"}">'
        f'<button type="button" data-sort="{key}">{words}<span class="arrow" aria-hidden="true"></span></button></th>'
        for key, words in _COLUMNS
    )
    bands = [(key, f"{sign} {words}") for key, (sign, words) in BANDS.items()]
    parts = [(part, part) for part in BODY_PARTS] + [(NO_PART, NO_PART)]
    told = [*common, *[_STRANGE] * any(band_of(row) == "strange" for row in ordered)]
    notices = "".join(f'<div class="notice" role="note">{escape(_clean(sentence))}</div>' for sentence in told)
    return (
        f'<mura-worklist data-version="{escape(version)}">{notices}<div class="filters">'
        f"{_select_html('part', 'Body part', 'all parts', parts)}"
        f"{_select_html('band', 'Answer', 'all answers', bands)}"
        '<output class="shown" aria-live="polite"></output></div>'
        '<div class="scroll" role="region" aria-label="Worklist" tabindex="0"><table role="table">'
        '<caption class="unseen">Studies, most likely abnormal first. The buttons of the header sort; arrows up and '
        "down go from one Open button to the next.</caption>"
        f'<thead role="rowgroup"><tr role="row">{heads}<th scope="col" role="columnheader"><span class="unseen">'
        "Open</span></th></tr></thead>"
        f'<tbody role="rowgroup">{body}</tbody></table></div></mura-worklist>'
    )


def summary_text(rows: Sequence[WorklistRow]) -> str:
    """How many studies got which answer, in words."""
    counts = Counter(map(band_of, rows))
    return ", ".join(
        f"{counts[key]:,} {words[0].lower()}{words[1:]}" for key, (_, words) in BANDS.items() if counts[key]
    )


def _row_html(row: WorklistRow, rank: int, place: int, common: Sequence[str]) -> str:
    band = band_of(row)
    sign, words = BANDS[band]
    if band == "uncertain":
        words += f" ({'flagged' if row.label == 'abnormal' else 'not flagged'})"
    name, part = escape(_clean(row.study)), row.body_part or NO_PART
    broken = name.replace("/", "/<wbr>")  # a long path may go on in the next line there
    answered = band not in ("strange", "failed") and row.probability is not None
    chance = f' data-chance="{row.probability:.6f}"' if answered else ""
    told = chance_text(row.probability) if answered and row.probability is not None else "–"
    notes = [_clean(note) for note in _notes(row, common)]
    listed = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""
    cells = (
        f' data-head="Body part">{escape(part)}',
        f' class="chance" data-head="P(abnormal)">{told}',
        f' class="band {band}"><span aria-hidden="true">{sign}</span> {words}',
        f' class="views" data-head="Views">{row.n_views}',
        f' class="notes" data-count="{len(notes)}">{listed}',
        f' class="act"><button type="button" class="open" aria-label="Open {name}">Open</button>',
    )
    cells_html = "".join(f'<td role="cell"{cell}</td>' for cell in cells)
    return (
        f'<tr role="row" data-study="{place}" data-rank="{rank}" data-part="{escape(part)}" data-band="{band}"'
        f'{chance}><th scope="row" role="rowheader"><bdi>{broken}</bdi></th>{cells_html}</tr>'
    )


def _notes(row: WorklistRow, common: Sequence[str]) -> list[str]:
    error = [] if row.error is None else [row.error]
    warnings = [warning for warning in row.warnings if warning not in (*common, OOD_WARNING)]
    return [*error, *(f"Left out: {sentence}" for sentence in row.left_out), *warnings]


def _select_html(key: str, label: str, every: str, choices: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in choices)
    return f'<label>{label} <select data-filter="{key}"><option value="">{every}</option>{options}</select></label>'


def _clean(text: str) -> str:
    """Text that can be sent: the name of a file may hold bytes that are no letters."""
    return text.encode("utf-8", "replace").decode("utf-8")


_MOST_SESSIONS = 1000  # whose readings may be stopped


@dataclass(frozen=True)
class OpenedStudy:
    """A study of the worklist that is to be shown by itself.

    Attributes:
        files: Its views, where the server keeps them.
        body_part: One of the seven where it was told, else None.
    """

    files: list[str]
    body_part: str | None


class WorklistDesk:
    """What the tab does, without its components. Threads share it.

    Args:
        room: The server's side.
    """

    def __init__(self, room: ReadingRoom) -> None:
        self.room = room
        self._stops: OrderedDict[str, Event] = OrderedDict()

    def begin(self, session: str) -> None:
        """Readies a reading to be stopped."""
        self._stops[session] = Event()
        while len(self._stops) > _MOST_SESSIONS:
            self._stops.popitem(last=False)

    def stop(self, session: str) -> None:
        """Ends a reading after the study that is being read."""
        if session in self._stops:
            self._stops[session].set()

    def gather(self, upload: str | None, path: str) -> list[StudyFiles]:
        """The studies that a visitor gave.

        Raises:
            DatasetError: If there are none, or both ways were used.
        """
        path = path.strip()
        if upload and path:
            raise DatasetError("Both a ZIP file and a path are given; clear one of them.")
        if not upload and not path:
            raise DatasetError("There is nothing to read yet: give a ZIP file, or try it with the phantoms.")
        if upload and not Path(upload).is_file():
            raise DatasetError(f"{Path(upload).name} was uploaded too long ago and is gone; upload it again.")
        if upload:
            check_zip(Path(upload))  # a CSV file would name files of the server
        return gather_studies(Path(upload or path).expanduser(), self.room.limits)

    def read(
        self, session: str, predictor: StudyPredictor, studies: list[StudyFiles], operating_point: str | None
    ) -> Iterator[tuple[str, Any, Any, Any]]:
        """Reads studies; gives HTML of the progress, HTML of the table, and at the end the two files."""
        places = {study.name: place for place, study in enumerate(studies)}
        points = predictor.model.config.operating_points
        point, threshold = predictor.find_threshold(operating_point if operating_point in points else None)
        common = predictor.warnings
        stop = self._stops.get(session)
        for stage in read_worklist(
            predictor,
            studies,
            self.room.reader,
            operating_point=point,
            stop=stop,
            most_seconds=self.room.limits.seconds,
        ):
            self.room.files.hold(session, [])  # somebody who waits is still there
            table: Any = gr.skip()
            if stage.show:
                table = worklist_html(stage.rows, places, common, version=f"{len(stage.rows)} {stage.ended}")
            if not stage.ended:
                yield stage_html(stage), table, gr.skip(), gr.skip()
                continue
            after = f"{summary_text(stage.rows).capitalize()}. " if stage.rows else ""
            words = operating_point_words(point)
            after += f"Checkpoint: {predictor.checkpoint}; flagged strictly above {threshold:g} (“{words}”)."
            yield stage_html(stage, after), table, *self._write(session, stage)

    def open(
        self, session: str, studies: list[StudyFiles], place: Any, last: OpenedStudy | None = None
    ) -> tuple[OpenedStudy, list[str]]:
        """Writes the views of a study as files of their own; besides, sentences about what was left out.

        Args:
            session: Whose files they are.
            studies: Of the worklist.
            place: Of the study among them; it comes from the page and may be anything.
            last: The study that was opened before, whose files go.

        Raises:
            DatasetError: If there is no such study, or nothing of it is there any more.
        """
        if type(place) is not int or not 0 <= place < len(studies):
            raise DatasetError("This study is no longer in the worklist; read the studies again.")
        study, most = studies[place], MAX_VIEWS
        paths, problems = write_views(study.files[:most], self.room.files.new_folder(session))
        if not paths:
            raise DatasetError(" ".join(["The study cannot be opened.", *problems]))
        if len(study.files) > most:
            problems.append(f"A study may have {most} views there; {len(study.files) - most} more were left out.")
        if last is not None:
            shutil.rmtree(Path(last.files[0]).parent, ignore_errors=True)
        return OpenedStudy(paths, study.body_part), problems

    def choose(self, chosen: Chosen, *, phantoms: bool) -> Chosen:
        """The checkpoint of a worklist: that of the examples for phantoms, unless the visitor chose one."""
        return (EXAMPLES_CHECKPOINT, "", "") if phantoms and chosen == DEFAULT else chosen

    def _write(self, session: str, stage: Stage) -> list[Any]:
        if not stage.rows:
            return [gr.update(value=None, visible=False)] * 2
        folder, rows = self.room.files.new_folder(session), sort_rows(stage.rows)
        files = [folder / "worklist.csv", folder / "worklist.json"]
        for file in files:
            write_worklist(rows, file)
        return [gr.update(value=str(file), visible=True) for file in files]
