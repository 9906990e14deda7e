"""`StudyDesk`: what the study tab does, without its components."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..errors import CheckpointError
from ..inference import StudyPredictor
from ..inference.report_pdf import report_pdf
from .answer import EMPTY, answer_html, is_withheld, trouble_html
from .checkpoints import DEFAULT, Chosen
from .examples import EXAMPLES_CHECKPOINT, find_example
from .operating import achievement_html, operating_point_choices
from .reading import read_study
from .reading_state import Question, Reading, remember
from .report import download_html, json_report, report_context
from .room import ReadingRoom
from .similar import similar_html
from .viewer import viewer_html
from .worklist_phantoms import are_worklist_phantoms

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
        return achievement_html(report_context(predictor, reading, prevalence).achievement, prevalence)

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
