"""The tab "Worklist": many studies at once, most likely abnormal first."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..errors import CheckpointError, DatasetError, MuraError
from ..inference import StudyFiles, StudyPredictor
from . import templates
from .examples import EXAMPLES_CHECKPOINT
from .result import known_point, operating_point_choices
from .state import DEFAULT, FOR_EXAMPLES, AppContext, CheckpointKey
from .study_tab import PrivacyNotice
from .templates import error_html, escape_text
from .worklist_controller import OpenedStudy, WorklistController, example_worklist, waiting_html

_KEPT_SECONDS = 4 * 3600
_ON_OPEN = "element.addEventListener('mura-open', (event) => trigger('select', event.detail));"


@dataclass(frozen=True)
class WorklistTab:
    """What the page needs of this tab."""

    opened: gr.State  # the study that was opened last, an `OpenedStudy`
    open_event: Any  # sets it; on its success, the study should be shown
    point: gr.Dropdown


def build_worklist_tab(context: AppContext, checkpoint: gr.State, notice: PrivacyNotice) -> WorklistTab:
    """Builds the tab.

    Args:
        context: State of the server.
        checkpoint: The checkpoint that the visitor chose, a `CheckpointKey`.
        notice: The privacy notice of a public page.
    """
    controller = WorklistController(context)
    default = context.checkpoints.get()
    studies = gr.State([], time_to_live=_KEPT_SECONDS)
    opened = gr.State(None, time_to_live=_KEPT_SECONDS)
    used = gr.State(None)  # the checkpoint and the operating point that were chosen when the list was read
    with gr.Row(elem_id="worklist-asking"):
        with gr.Column(scale=5, min_width=300):
            with notice.before_uploads():
                upload = gr.File(
                    label=templates.ARCHIVE.format(context.limits.studies), type="filepath", height=150,
                    elem_id="worklist-upload", elem_classes="own-drop",
                )  # fmt: skip
                path = gr.Textbox(
                    label=templates.PLACE, placeholder=templates.PLACE_EXAMPLE,
                    visible=not context.public, max_lines=1,
                )  # fmt: skip
            point = gr.Dropdown(
                operating_point_choices(default), value=default.find_threshold()[0], label=templates.OPERATING_POINT,
                info=templates.POINT_INFO, elem_id="worklist-point",
            )  # fmt: skip
            with gr.Row():
                read = notice.gate(
                    gr.Button, templates.READ_STUDIES, variant="primary", min_width=140, elem_id="worklist-read"
                )
                stop = gr.Button(templates.STOP, interactive=False, min_width=90, elem_id="worklist-stop")
        with gr.Column(scale=6, min_width=300):
            gr.Markdown(templates.worklist_help(), elem_id="worklist-help")
            gr.Markdown(templates.NO_STUDIES.format(EXAMPLES_CHECKPOINT), elem_classes="fine")
            try_phantoms = gr.Button(templates.TRY_PHANTOMS, elem_id="worklist-phantoms")
    progress = gr.HTML("", elem_id="worklist-progress", js_on_load=None)
    with gr.Row(elem_id="worklist-downloads"):
        to_csv = gr.DownloadButton(templates.DOWNLOADS["csv"], visible=False, size="sm", elem_id="worklist-csv")
        to_json = gr.DownloadButton(templates.DOWNLOADS["json"], visible=False, size="sm", elem_id="worklist-json")
    outdated = gr.HTML(error_html(templates.OUTDATED), visible=False, elem_id="worklist-outdated")
    table = gr.HTML("", elem_id="worklist-table", js_on_load=_ON_OPEN, apply_default_css=False)

    def choose_point(predictor: StudyPredictor, named: str | None) -> str:
        return predictor.find_threshold(known_point(predictor, named))[0]

    def begin(key: CheckpointKey, named: str | None, request: gr.Request) -> tuple[Any, ...]:
        controller.begin(str(request.session_hash))
        with suppress(CheckpointError):  # the page may still show a point of the former checkpoint
            named = choose_point(context.checkpoints.get(*key), named)
        empty, hidden = gr.update(value=None, visible=False), gr.update(visible=False)
        return [], (key, named), waiting_html(templates.WAITING), "", empty, empty, hidden, *_buttons(reading=True)

    def read_upload(
        archive: str | None, place: str, named: str | None, key: CheckpointKey, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        yield {progress: waiting_html(templates.SEARCHING)}
        try:
            found = controller.gather(archive, "" if context.public else place)
        except DatasetError as error:
            yield {progress: error_html(str(error)), used: None}
            return
        yield from read_studies(found, named, key, request)

    def read_phantoms(named: str | None, key: CheckpointKey, request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from read_studies(example_worklist(), named, FOR_EXAMPLES if key == DEFAULT else key, request)

    def read_studies(
        found: list[StudyFiles], named: str | None, key: CheckpointKey, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        try:
            yield {studies: found, progress: waiting_html(templates.LOADING)}
            predictor = context.checkpoints.get(*key)
            for state, rows, csv, json in controller.read(str(request.session_hash), predictor, found, named):
                yield {progress: state, table: rows, to_csv: csv, to_json: json}
        except CheckpointError as error:
            yield {progress: error_html(str(error)), used: None}

    def stop_reading(request: gr.Request) -> None:
        controller.stop(str(request.session_hash))

    def open_study(
        found: list[StudyFiles], last: OpenedStudy | None, event: gr.EventData, request: gr.Request
    ) -> OpenedStudy:
        try:
            study, problems = controller.open(str(request.session_hash), found, event._data.get("study"), last)
        except MuraError as error:
            raise gr.Error(str(error), title=templates.NOT_OPENED, print_exception=False) from None
        if problems:
            gr.Warning(escape_text(" ".join(problems)), title=templates.LEFT_OUT)
        return study

    def update_points(key: CheckpointKey, named: str | None) -> Any:
        try:
            predictor = context.checkpoints.get(*key)
        except CheckpointError:
            return gr.skip()
        return gr.update(choices=operating_point_choices(predictor), value=choose_point(predictor, named))

    def mark_outdated(last: tuple[CheckpointKey, str | None] | None, *chosen: Any) -> Any:
        return gr.update(visible=last not in (None, chosen))

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    outputs, buttons = [studies, used, progress, table, to_csv, to_json], [read, try_phantoms, stop]
    for button, fn, inputs in (
        (read, read_upload, [upload, path, point, checkpoint]),
        (try_phantoms, read_phantoms, [point, checkpoint]),
    ):
        button.click(begin, [checkpoint, point], [*outputs, outdated, *buttons], queue=False, **private).then(
            fn, inputs, outputs, concurrency_id="worklists", concurrency_limit=1, **private
        ).then(lambda: _buttons(reading=False), None, buttons, queue=False, **private)
    upload.upload(lambda _: None, upload, None, queue=False, **private)  # the call that says whose file it is
    stop.click(stop_reading, None, None, queue=False, **private)
    # One after the other: a point of the former checkpoint is no longer among the choices.
    updated = checkpoint.change(update_points, [checkpoint, point], point, **private)
    for event in (updated.then, point.input):
        event(mark_outdated, [used, checkpoint, point], outdated, **private)
    open_event = table.select(open_study, [studies, opened], opened, **private)
    return WorklistTab(opened, open_event, point)


def _buttons(*, reading: bool) -> tuple[Any, Any, Any]:
    """Which of the buttons read, phantoms and stop can be pressed."""
    idle = gr.update(interactive=not reading)
    return idle, idle, gr.update(interactive=reading)
