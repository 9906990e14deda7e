"""`WorklistDesk`: what the tab "Worklist" does, without its components."""

import shutil
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr

from ..errors import DatasetError
from ..inference import StudyFiles, StudyPredictor, sort_rows
from ..inference.worklist import write_worklist
from .checkpoints import DEFAULT, Chosen
from .examples import EXAMPLES_CHECKPOINT
from .operating import operating_point_words
from .reading import MAX_VIEWS
from .room import ReadingRoom
from .worklist_opening import write_views
from .worklist_reading import Stage, gather_studies, read_worklist, stage_html
from .worklist_table import summary_text, worklist_html
from .zip_checks import check_zip

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
