"""`Turns`: which of a visitor's readings is the last.

What a visitor's session remembers of the study that is open.
The open study as files that the page holds: JSON, and a PDF of one page.
`StudyDesk`: what the study tab does, without its components.
"""

import base64
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from secrets import token_hex
from threading import Lock

from ..errors import CheckpointError
from ..inference import StudyPrediction, StudyPredictor
from ..inference.report import DISCLAIMER, ReportContext, report_pdf
from .checkpoints import DEFAULT, Chosen
from .context import ReadingRoom
from .examples import EXAMPLES_CHECKPOINT, find_example
from .reading import read_study
from .result import (
    EMPTY,
    achievement_html,
    answer_html,
    is_withheld,
    operating_point_choices,
    similar_html,
    trouble_html,
)
from .viewer import viewer_html
from .worklist_tab import are_worklist_phantoms

_MOST = 10_000  # sessions; the oldest are forgotten, and count as last


class Turns:
    """Readings may end in another order than they began; only the last one may speak. Threads share it."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, object] = OrderedDict()
        self._lock = Lock()

    def begin(self, session: str, turn: object) -> None:
        """Makes a reading the last one of a session."""
        with self._lock:
            self._last[session] = turn
            self._last.move_to_end(session)
            while len(self._last) > _MOST:
                self._last.popitem(last=False)

    def is_last(self, session: str, turn: object) -> bool:
        """Whether no other reading of a session began since."""
        with self._lock:
            return self._last.get(session, turn) is turn


@dataclass(frozen=True)
class Question:
    """What was asked about a study.

    Attributes:
        files: Its views, where the server keeps them.
        checkpoint: Which one answered.
        body_part: As it was given; None where the model is to find it.
        operating_point: Name of the threshold; the checkpoint's default where None.
        method: Of the heatmaps; the cheapest that is exact for the model where None.
        anyway: Whether the answer is wanted for a study that is unlike those of training, too.
    """

    files: tuple[str, ...]
    checkpoint: Chosen = DEFAULT
    body_part: str | None = None
    operating_point: str | None = None
    method: str | None = None
    anyway: bool = False


@dataclass(frozen=True)
class Reading:
    """A question with its answer.

    Attributes:
        question: What was asked, with the operating point that was used.
        study: The answer without heatmaps: no picture is remembered.
        problems: Sentences about files that could not be read.
    """

    question: Question
    study: StudyPrediction
    problems: tuple[str, ...] = ()


def remember(question: Question, study: StudyPrediction, problems: list[str]) -> Reading:
    """A reading that is small enough to be kept for every visitor."""
    views = [replace(view, heatmap=None) for view in study.views]
    question = replace(question, operating_point=study.operating_point)
    return Reading(question, replace(study, views=views), tuple(problems))


_KINDS = {"pdf": "application/pdf", "json": "application/json"}


def report_context(predictor: StudyPredictor, reading: Reading, prevalence: float) -> ReportContext:
    """What stands beside the answer on a report made now."""
    study = reading.study
    return ReportContext(
        made=datetime.now(UTC),
        weights_sha256=predictor.weights_sha256,
        performance=predictor.measured_performance.get(study.operating_point, study.threshold, study.body_part),
        prevalence=prevalence,
        left_out=reading.problems,
        withheld=is_withheld(study, reading.question.anyway),
    )


def json_report(predictor: StudyPredictor, reading: Reading, prevalence: float) -> bytes:
    """The answer with its numbers and what stands beside it; without the answer where that is withheld."""
    context = report_context(predictor, reading, prevalence)
    achieved = context.performance
    report = {
        "made": context.made.isoformat(timespec="seconds"),
        "disclaimer": DISCLAIMER,
        "checkpoint": reading.study.checkpoint,
        "weights_sha256": context.weights_sha256,
        "withheld": context.withheld,
        "study": None if context.withheld else reading.study.to_dict(),
        "left_out": list(reading.problems),
        "measured": None
        if achieved is None
        else {
            **asdict(achieved),
            "sensitivity": achieved.sensitivity,
            "specificity": achieved.specificity,
            "prevalence": prevalence,
            "predictive_values": achieved.predictive_values(prevalence),
        },
    }
    return (json.dumps(report, indent=2, allow_nan=False) + "\n").encode()


def download_html(kind: str, content: bytes) -> str:
    """A link to a report, which the browser fetches at once (`static/download.js`).

    Args:
        kind: "pdf" or "json".
        content: Of the file.
    """
    name = f"study-report.{kind}"
    size = max(1, round(len(content) / 1024))
    return (
        f'<mura-download data-file="{token_hex(8)}" data-name="{escape(name)}" data-type="{_KINDS[kind]}" '
        f'data-base64="{base64.b64encode(content).decode()}"><a href="#">{escape(name)}</a> ({size} KB) is ready and '
        "was sent to your downloads. The server keeps no copy.</mura-download>"
    )


Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Opened:
    """A study as the page shows it.

    Attributes:
        answer: HTML of the verdict.
        viewer: HTML of the views; empty where there are none.
        withheld: Whether the answer is kept back.
        reading: To be remembered; None where there is no answer.
        points: Words and names of the checkpoint's operating points; None where no checkpoint could be asked.
        point: The one in use.
    """

    answer: str
    viewer: str = ""
    withheld: bool = False
    reading: Reading | None = None
    points: list[tuple[str, str]] | None = None
    point: str | None = None


class StudyDesk:
    """Answers what visitors ask about one study. Threads share it.

    Args:
        room: The server's side.
    """

    def __init__(self, room: ReadingRoom) -> None:
        self.room = room

    def choose(self, files: tuple[str, ...], chosen: Chosen) -> Chosen:
        """The checkpoint for a study: that of the examples for an example, unless the visitor chose one."""
        ours = find_example(files, self.room.examples) is not None or are_worklist_phantoms(files)
        if chosen == DEFAULT and ours:
            return (EXAMPLES_CHECKPOINT, "", "")
        return chosen

    def open(self, question: Question, progress: Progress | None = None) -> Opened:
        """Reads a study; what goes wrong is said on the page."""
        if not question.files:
            return Opened(EMPTY)
        try:
            predictor = self.room.checkpoints.get(*question.checkpoint)
        except CheckpointError as error:
            return Opened(trouble_html(str(error)))
        points = operating_point_choices(predictor)
        point, _ = predictor.find_threshold(_known(predictor, question.operating_point))
        try:
            study, radiographs, problems = read_study(
                predictor, self.room.reader, question.files, question.body_part,
                operating_point=_known(predictor, question.operating_point), method=question.method, progress=progress,
            )  # fmt: skip
        except (CheckpointError, ValueError) as error:  # the latter: a body part that this checkpoint needs, or lacks
            return Opened(trouble_html(str(error)), points=points, point=point)
        shown = self._caption(question.files) + answer_html(study, problems, anyway=question.anyway)
        if study is None:
            return Opened(shown, points=points, point=point)
        return Opened(
            shown,
            viewer_html(study, radiographs, anyway=question.anyway),
            is_withheld(study, question.anyway),
            remember(question, study, problems),
            points,
            point,
        )

    def _caption(self, files: tuple[str, ...]) -> str:
        example = find_example(files, self.room.examples)
        return f'<p class="fine">Example, a synthetic phantom: {escape(example.caption)}.</p>' if example else ""

    def achieved(self, reading: Reading | None, prevalence: float) -> str:
        """HTML of what the operating point of a reading was measured to achieve."""
        if reading is None or is_withheld(reading.study, reading.question.anyway):
            return ""
        try:
            predictor = self.room.checkpoints.get(*reading.question.checkpoint)
        except CheckpointError as error:
            return trouble_html(str(error))
        return achievement_html(report_context(predictor, reading, prevalence).performance, prevalence)

    def similar(self, reading: Reading | None, *, same_part: bool) -> str:
        """HTML of the cases most like that of a reading."""
        if reading is None:
            return '<p class="fine">They are shown once a study was read.</p>'
        if is_withheld(reading.study, reading.question.anyway):
            return '<p class="fine">Not searched: this does not look like what the checkpoint was trained on.</p>'
        try:
            predictor = self.room.checkpoints.get(*reading.question.checkpoint)
        except CheckpointError as error:
            return trouble_html(str(error))
        return similar_html(predictor, reading.study, same_part=same_part)

    def report(self, kind: str, reading: Reading | None, prevalence: float) -> str:
        """HTML that hands out a report, "json" or "pdf"; the views of a PDF are read again."""
        if reading is None:
            return '<p class="fine">Read a study first; then there is something to report.</p>'
        question = reading.question
        try:
            predictor = self.room.checkpoints.get(*question.checkpoint)
            if kind == "json":
                return download_html(kind, json_report(predictor, reading, prevalence))
            study, radiographs, problems = read_study(
                predictor, self.room.reader, question.files, question.body_part,
                operating_point=_known(predictor, question.operating_point), method=question.method,
            )  # fmt: skip
        except (CheckpointError, ValueError) as error:
            return trouble_html(str(error))
        if study is None or len(study.views) < len(reading.study.views):
            return trouble_html(" ".join(problems))
        return download_html(kind, report_pdf(study, radiographs, report_context(predictor, reading, prevalence)))


def progress_html(files: Sequence[str], read: Sequence[str], total: int) -> str:
    """How many files are read, and which; those inside ZIP files are told as they come.

    Args:
        files: Of the study, as they were brought.
        read: Names of those that are read.
        total: Views that were found in them.
    """
    names, done = [Path(file).name for file in files], len(read)
    waiting = [name for name in names if name not in read and not name.lower().endswith(".zip")]
    rows = "".join(f"<li>✓ {escape(name)}</li>" for name in read)
    rows += "".join(f"<li>… {escape(name)}</li>" for name in waiting)
    words = f"Read {done} of {total} files" if done < total else "All files read; the model looks at them"
    return (
        f'<div class="reading" role="status"><p>{words} …</p><progress max="{max(total, 1)}" value="{done}" '
        f'aria-label="Files read"></progress><ul>{rows}</ul></div>'
    )


def _known(predictor: StudyPredictor, name: str | None) -> str | None:
    """An operating point by its name; None, the default, where this checkpoint has none of that name."""
    return name if name in predictor.model.config.operating_points else None
