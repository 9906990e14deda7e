"""The tab "Read a study"."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import gradio as gr

from ..common import BODY_PARTS
from ..explain import AUTO
from . import templates
from .controller import StudyController, StudyPage, StudyRequest, StudyResult, study_progress_html
from .examples import EXAMPLES_CHECKPOINT, find_example
from .result import answer_html
from .state import DEFAULT, AppContext, CheckpointKey, LatestRequests
from .templates import FOUND, render

_ON_EXAMPLE = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-example]");
  if (button) trigger("select", { example: Number(button.dataset.example) });
});"""
_PREVALENCE = 10  # percent
_SLOW = ("smooth_grad_cam", "occlusion")  # on a public page they would keep other visitors waiting for minutes
_HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_READ_OPTIONS: dict[str, Any] = {
    "api_visibility": "private",
    "concurrency_id": "reading",
    "show_progress": "minimal",
    "trigger_mode": "always_last",  # by default, a running request would swallow the next one
}


class PrivacyNotice:
    """The notice of a public page. Accepted in one tab, it is accepted for all tabs.

    Args:
        public: Whether the page is public. If not, there is no notice, and nothing is hidden.
    """

    def __init__(self, public: bool) -> None:
        self._public = public
        self._gated: list[Any] = []
        self._boxes: list[gr.Column] = []
        self._buttons: list[gr.Button] = []

    @contextmanager
    def before_uploads(self, **options: Any) -> Iterator[None]:
        """Adds the notice, and below it a column for the upload boxes of a tab, which is shown once it is accepted.

        Args:
            **options: Arguments of the column.
        """
        if self._public:
            with gr.Column(elem_classes="privacy") as box:
                gr.Markdown(templates.PRIVACY)
                self._buttons.append(gr.Button(templates.AGREE, variant="primary"))
            self._boxes.append(box)
        with self.gate(gr.Column, **options):
            yield

    def gate(self, kind: Callable[..., Any], *values: Any, **options: Any) -> Any:
        """Builds a component, which a public page shows once the notice is accepted and hides until then.

        Args:
            kind: Class of the component.
            *values, **options: Its arguments.
        """
        component = kind(*values, visible=not self._public, **options)
        self._gated.append(component)
        return component

    def connect(self) -> None:
        """Connects the buttons of all tabs."""
        outputs = [*self._boxes, *self._gated]
        updates = [gr.update(visible=component in self._gated) for component in outputs]
        for button in self._buttons:
            button.click(lambda: updates, None, outputs, api_visibility="private", show_progress="hidden")


@dataclass(frozen=True)
class StudyTab:
    """What the other tabs need of this one."""

    body_part: gr.Dropdown  # the body part given by the visitor, or `FOUND`
    open_files: gr.State  # paths of the views of the open study
    open_study: Callable[..., dict[Any, Any]]  # closes the open study and opens another; returns updates of `outputs`
    outputs: list[Any]  # components that change when a study is opened
    point: gr.Dropdown
    point_of: gr.State  # checkpoint that the operating point was shown for; None if it is for any
    read_event: dict[str, Any]  # arguments of the event that reads the open study
    steps: list[dict[str, Any]]  # arguments of the events that follow

    def read_on(self, listener: Callable[..., Any], **changes: Any) -> None:
        """Reads the open study when an event happens, such as `button.click` or `event.then`."""
        event = listener(**{**self.read_event, **changes}, **_READ_OPTIONS)
        for step in self.steps:
            event = event.then(**step, **_HIDDEN)


def build_study_tab(context: AppContext, checkpoint: gr.State, notice: PrivacyNotice) -> StudyTab:
    """Builds the tab. It opens with the answer for the first example.

    Args:
        context: State of the server.
        checkpoint: The checkpoint that the visitor chose, a `CheckpointKey`.
        notice: The privacy notice of a public page.
    """
    controller, latest = StudyController(context), LatestRequests()
    shown = context.examples
    if context.checkpoints.get().model.config.trained_on_phantoms:  # its answers for films mean nothing
        shown = sorted(shown, key=lambda example: example.source is not None)
    first = shown[0].files
    page = controller.open(StudyRequest(first, controller.choose_checkpoint(first, DEFAULT)))
    result = gr.State(page.result)
    open_files = gr.State(first)
    point_of = gr.State(controller.choose_checkpoint(first, DEFAULT))
    shown_anyway = gr.State(())  # views of the study whose whole answer the visitor wants to see
    with gr.Row(elem_id="study"):
        with gr.Column(min_width=240, elem_id="left"):
            with gr.Column(elem_id="asking"), notice.before_uploads(elem_id="uploading"):
                gr.HTML(render("drop"))
                with gr.Row(elem_id="doing"):
                    new = gr.UploadButton(
                        templates.NEW_STUDY, file_count="multiple", type="filepath", min_width=90,
                        variant="primary", elem_id="new-study",
                    )  # fmt: skip
                    add = gr.UploadButton(
                        templates.ADD_VIEWS, file_count="multiple", type="filepath", min_width=90,
                        elem_id="add-views",
                    )  # fmt: skip
                gr.Markdown(templates.FORMATS, elem_classes="fine", elem_id="formats")
                files = gr.File(
                    label=templates.STUDY_FILES, file_count="multiple", type="filepath", height=140,
                    elem_id="study-files",
                )  # fmt: skip
            with gr.Column(elem_id="choosing"):
                examples = gr.HTML(
                    render("examples", examples=shown, checkpoint=EXAMPLES_CHECKPOINT),
                    elem_id="examples", js_on_load=_ON_EXAMPLE,
                )  # fmt: skip
        with gr.Column(min_width=300, elem_id="right"):
            with gr.Column(elem_id="answering"):
                gr.HTML(render("walk"), elem_id="walk")
                answer = gr.HTML(page.answer, elem_id="answer")
                anyway_button = gr.Button(
                    page.anyway_text or templates.SHOW_ANYWAY, visible=page.anyway_text is not None, size="sm",
                    elem_id="anyway",
                )  # fmt: skip
                views = gr.HTML(page.viewer, elem_id="views")
            with gr.Column(elem_id="more"):
                with gr.Accordion(templates.HOW_SURE, open=False, elem_id="how-sure"):
                    details = gr.HTML(page.details, elem_id="details")
                    point = gr.Dropdown(
                        page.points, value=page.point, label=templates.OPERATING_POINT, elem_id="operating-point"
                    )
                    prevalence = gr.Slider(
                        1, 90, value=_PREVALENCE, step=1, label=templates.PREVALENCE, elem_id="prevalence"
                    )
                    performance = gr.HTML(controller.performance(page.result, _PREVALENCE / 100), elem_id="achieved")
                with gr.Accordion(templates.ALIKE, open=False, elem_id="alike"):
                    scope = gr.Radio(
                        [templates.ANYWHERE, templates.SAME_PART], value=templates.ANYWHERE, label=templates.SEARCH,
                        visible=page.takes_body_part, elem_id="scope",
                    )  # fmt: skip
                    similar = gr.HTML(controller.similar(page.result, same_part=False), elem_id="similar")
                with gr.Accordion(templates.REPORT, open=False, elem_id="reports"):
                    with gr.Row():
                        to_pdf = gr.Button(templates.REPORTS["pdf"], size="sm", min_width=120)
                        to_json = gr.Button(templates.REPORTS["json"], size="sm", min_width=120)
                    report = gr.HTML("", elem_id="report")
                with gr.Accordion(templates.OPTIONS, open=False, elem_id="options"):
                    body_part = gr.Dropdown(
                        [FOUND, *BODY_PARTS], value=FOUND, label=templates.BODY_PART, visible=page.takes_body_part
                    )
                    methods = [name for name in templates.METHODS if not (context.public and name in _SLOW)]
                    method = gr.Dropdown(
                        [(templates.METHODS[name], name) for name in methods], value=AUTO, label=templates.METHOD
                    )
    contents = [answer, views, anyway_button, details, performance, similar, report, result]

    def make_request(
        opened: tuple[str, ...],
        part: str,
        named_point: str | None,
        point_of_key: CheckpointKey | None,
        named_method: str,
        key: CheckpointKey,
        anyway: tuple[str, ...],
    ) -> StudyRequest:
        key = controller.choose_checkpoint(opened, key)
        if point_of_key not in (None, key):  # another checkpoint may have a point of that name as well
            named_point = None
        return StudyRequest(opened, key, None if part == FOUND else part, named_point, named_method, opened == anyway)

    def read_study(request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
        asked = make_request(*values)
        session = str(request.session_hash)
        token = latest.begin(session)
        news: SimpleQueue[tuple[int, int, str]] = SimpleQueue()
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
            future = pool.submit(controller.open, asked, lambda *step: news.put(step))
            names: list[str] = []
            while not future.done():
                try:
                    done, total, name = news.get(timeout=0.02)
                except Empty:
                    continue
                names += [name] * (done > 0)
                if latest.is_latest(session, token):
                    yield {answer: study_progress_html(asked.files, names, total), report: ""}
        if latest.is_latest(session, token):
            yield show(future.result(), asked.checkpoint)
        else:  # the page shows something else by now; without any output it would become empty
            yield {report: gr.skip()}

    def adjust(request: gr.Request, last: StudyResult | None, *values: Any) -> Iterator[dict[Any, Any]]:
        """Reads again only if something changed: a dropdown also reports an input when the keyboard leaves it."""
        if last is None or last.request != make_request(*values):
            yield from read_study(request, *values)
        else:
            yield {report: gr.skip()}

    def show(opened: StudyPage, key: CheckpointKey) -> dict[Any, Any]:
        updates: dict[Any, Any] = {
            answer: opened.answer,
            views: opened.viewer,
            details: opened.details,
            anyway_button: gr.update(
                value=opened.anyway_text or templates.SHOW_ANYWAY, visible=opened.anyway_text is not None
            ),
            body_part: gr.update(visible=opened.takes_body_part),
            scope: gr.update(visible=opened.takes_body_part),
            result: opened.result,
            report: "",
        }
        if opened.points is not None:
            updates |= {point: gr.update(choices=opened.points, value=opened.point), point_of: key}
        return updates

    def open_study(
        request: gr.Request, paths: Sequence[str] | None, part: str | None = FOUND, *, listed: bool = True
    ) -> dict[Any, Any]:
        """Closes the open study at once and opens another one, whose files are listed unless it is an example."""
        latest.begin(str(request.session_hash))  # a result that is still to come is about another study
        opened = tuple(paths or ())
        closed: dict[Any, Any] = dict.fromkeys((views, details, performance, similar, report), "")
        waiting = study_progress_html(opened, (), len(opened), opened=True) if opened else answer_html(None)
        closed |= {answer: waiting, anyway_button: gr.update(visible=False), result: None}
        return {**closed, open_files: opened, body_part: part, files: list(opened) if listed and opened else None}

    def open_example(request: gr.Request, event: gr.EventData) -> dict[Any, Any]:
        number = event._data.get("example")
        if type(number) is not int or not 0 <= number < len(shown):  # programs can send anything
            raise gr.Error(templates.NO_EXAMPLE, print_exception=False)
        return open_study(request, shown[number].files, listed=False)

    def add_views(request: gr.Request, opened: tuple[str, ...], more: list[str], part: str) -> dict[Any, Any]:
        kept = () if find_example(opened) else opened
        return open_study(request, [*kept, *more], part)

    def remove_view(
        request: gr.Request, listed: list[str] | None, part: str, event: gr.DeletedFileData
    ) -> dict[Any, Any]:
        left = [path for path in listed or [] if path != event.file.path]  # it may still be listed
        return open_study(request, left, part)

    inputs: list[Any] = [open_files, body_part, point, point_of, method, checkpoint, shown_anyway]
    measure: dict[str, Any] = {
        "fn": lambda last, percent: controller.performance(last, percent / 100),
        "inputs": [result, prevalence],
        "outputs": performance,
    }
    search: dict[str, Any] = {
        "fn": lambda last, where: controller.similar(last, same_part=where == templates.SAME_PART),
        "inputs": [result, scope],
        "outputs": similar,
    }
    read_event = {"fn": read_study, "inputs": inputs, "outputs": [*contents, scope, body_part, point, point_of]}
    outputs = [*contents, open_files, body_part, files]
    tab = StudyTab(body_part, open_files, open_study, outputs, point, point_of, read_event, [measure, search])
    for event in (
        new.upload(open_study, new, outputs, **_HIDDEN),
        add.upload(add_views, [open_files, add, body_part], outputs, **_HIDDEN),
        examples.select(open_example, None, outputs, **_HIDDEN),
        files.delete(remove_view, [files, body_part], outputs, **_HIDDEN),
        files.clear(open_study, gr.State(None), outputs, **_HIDDEN),
    ):
        tab.read_on(event.then)
    for control in (body_part, point, method):
        tab.read_on(control.input, fn=adjust, inputs=[result, *inputs])
    tab.read_on(anyway_button.click(lambda opened: opened, open_files, shown_anyway, **_HIDDEN).then)
    prevalence.input(**measure, **_HIDDEN, trigger_mode="always_last")
    scope.input(**search, **_HIDDEN)
    for button, kind in ((to_pdf, "pdf"), (to_json, "json")):
        button.click(
            lambda last, percent, kind=kind: controller.report(kind, last, percent / 100), [result, prevalence],
            report, api_visibility="private", concurrency_id="reading",
        )  # fmt: skip
    return tab
