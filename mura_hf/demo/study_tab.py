"""The tab "Read a study"."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import gradio as gr

from ..common import BODY_PARTS
from ..explain import AUTO, METHODS
from .controller import LatestRequests, StudyController, StudyPage, StudyRequest, StudyResult, progress_html
from .examples import EXAMPLES_CHECKPOINT
from .state import DEFAULT, AppContext
from .templates import PrivacyNotice

FOUND = "found by the model"
_PREVALENCE = 10  # percent
_ANYWHERE, _SAME = "Whole database", "Same body part"
_SLOW = ("smooth_grad_cam", "occlusion")  # on a public page they would keep other visitors waiting for minutes
_METHODS = {
    AUTO: "Grad-CAM, the fastest exact way",
    "class_activation_map": "Class activation map",
    "head_gradient": "Grad-CAM by the gradient of the head",
    "grad_cam": "Grad-CAM by Captum",
    "layer_cam": "LayerCAM",
    "smooth_grad_cam": "Smooth Grad-CAM (slower)",
    "occlusion": "Occlusion (slowest)",
}
_HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_READING: dict[str, Any] = {
    "api_visibility": "private",
    "concurrency_id": "reading",
    "show_progress": "minimal",
    "trigger_mode": "always_last",  # by default, a running request would swallow the next one
}


@dataclass(frozen=True)
class StudyTab:
    """What the other tabs need of this one."""

    files: gr.File  # the upload box
    body_part: gr.Dropdown  # the body part given by the visitor, or `FOUND`
    open_files: gr.State  # paths of the views of the open study, from the box or an example
    open_study: Callable[[gr.Request, Sequence[str] | None], tuple[str, ...]]  # returns the new `open_files`
    point: gr.Dropdown
    reading: dict[str, Any]  # arguments of the event that reads the open study
    steps: list[dict[str, Any]]  # arguments of the events that follow

    def read_on(self, listener: Callable[..., Any], **changes: Any) -> None:
        """Reads the open study when an event happens, such as `button.click` or `event.then`."""
        event = listener(**{**self.reading, **changes}, **_READING)
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
    first = context.examples[0].files
    page = controller.open(StudyRequest(first, controller.choose_checkpoint(first, DEFAULT)))
    result = gr.State(page.result)
    open_files = gr.State(first)
    insisted = gr.State(())  # views of the unusual study whose answer the visitor wants to see
    with gr.Row(elem_id="study"):
        with gr.Column(scale=4, min_width=300, elem_id="asking"):
            if context.public:
                notice.add()
            with gr.Column(visible=not context.public, elem_id="uploading") as uploading:
                files = gr.File(label="Views of one study", file_count="multiple", type="filepath", height=160)
                gr.Markdown(
                    "PNG, JPEG, TIFF, BMP, WebP or DICOM, or a ZIP file. Clear the box (✕) before the next study.",
                    elem_classes="fine",
                )
            with gr.Row(elem_id="doing"):
                read = gr.Button("Read the study", variant="primary", min_width=130, elem_id="read")
                add = gr.UploadButton(
                    "Add views", file_count="multiple", type="filepath", min_width=90, visible=not context.public,
                    elem_id="add-views",
                )  # fmt: skip
            notice.gated += [uploading, add]
            gr.Markdown(
                "**Examples: synthetic phantoms**, not patients. They are read by "
                f"`{EXAMPLES_CHECKPOINT}` unless you choose a model."
            )
            gallery = gr.Gallery(
                [(example.files[0], example.caption) for example in context.examples],
                label="Examples: synthetic phantoms", show_label=False, elem_id="examples", columns=3, height="auto",
                buttons=[], allow_preview=False, object_fit="contain", interactive=False,
            )  # fmt: skip
        with gr.Column(scale=4, min_width=300, elem_id="setting"):
            body_part = gr.Dropdown([FOUND, *BODY_PARTS], value=FOUND, label="Body part")
            with gr.Group():
                point = gr.Dropdown(
                    page.points, value=page.point, label="Operating point", elem_id="operating-point"
                )  # fmt: skip
                prevalence = gr.Slider(
                    1, 90, value=_PREVALENCE, step=1, label="Abnormal of 100 studies at your site (prevalence)",
                    elem_id="prevalence",
                )  # fmt: skip
                performance = gr.HTML(controller.performance(page.result, _PREVALENCE / 100), elem_id="achieved")
            methods = [name for name in (AUTO, *METHODS) if not (context.public and name in _SLOW)]
            method = gr.Dropdown([(_METHODS[name], name) for name in methods], value=AUTO, label="Heatmap method")
        with gr.Column(scale=8, min_width=300, elem_id="answering"):
            answer = gr.HTML(page.answer, elem_id="answer")
            insist = gr.Button("Show the answer anyway", visible=page.withheld, elem_id="anyway")
            views = gr.HTML(page.viewer, elem_id="views")
            with gr.Row(elem_id="reports"):
                to_pdf = gr.Button("Report as PDF", size="sm", min_width=120)
                to_json = gr.Button("Report as JSON", size="sm", min_width=120)
            report = gr.HTML("", elem_id="report")
        with gr.Column(scale=8, min_width=300, elem_id="alike"):
            gr.Markdown("## Similar cases")
            scope = gr.Radio([_ANYWHERE, _SAME], value=_ANYWHERE, label="Search in", elem_id="scope")
            similar = gr.HTML(controller.similar(page.result, same_part=False), elem_id="similar")

    def make_request(opened: tuple[str, ...], part: str, *values: Any) -> StudyRequest:
        named_point, named_method, key, wanted = values
        key = controller.choose_checkpoint(opened, key)
        return StudyRequest(opened, key, None if part == FOUND else part, named_point, named_method, opened == wanted)

    def read_study(request: gr.Request, last: StudyResult | None, *values: Any) -> Iterator[dict[Any, Any]]:
        asked = make_request(*values)
        session = str(request.session_hash)
        token = latest.begin(session)
        news: SimpleQueue[tuple[int, int, str]] = SimpleQueue()
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
            reading = pool.submit(controller.open, asked, lambda *step: news.put(step))
            names: list[str] = []
            while not reading.done():
                try:
                    done, total, name = news.get(timeout=0.02)
                except Empty:
                    continue
                names += [name] * (done > 0)
                if latest.is_latest(session, token):
                    yield {answer: progress_html(asked.files, names, total), report: ""}
        if latest.is_latest(session, token):
            yield show(reading.result())
        else:  # the page shows something else by now; without any output it would become empty
            yield {report: gr.skip()}

    def adjust(request: gr.Request, last: StudyResult | None, *values: Any) -> Iterator[dict[Any, Any]]:
        """Reads again only if something changed: a dropdown also reports an input when the keyboard leaves it."""
        if last is None or last.request != make_request(*values):
            yield from read_study(request, last, *values)
        else:
            yield {report: gr.skip()}

    def show(opened: StudyPage) -> dict[Any, Any]:
        shown: dict[Any, Any] = {
            answer: opened.answer,
            views: opened.viewer,
            insist: gr.update(visible=opened.withheld),
            result: opened.result,
            report: "",
        }
        if opened.points is not None:
            shown[point] = gr.update(choices=opened.points, value=opened.point)
        return shown

    def open_study(request: gr.Request, paths: Sequence[str] | None) -> tuple[str, ...]:
        latest.begin(str(request.session_hash))  # a result that is still to come is about another study
        return tuple(paths or ())

    def open_example(request: gr.Request, event: gr.SelectData) -> tuple[None, tuple[str, ...], str]:
        return None, open_study(request, context.examples[event.index].files), FOUND

    def add_views(request: gr.Request, paths: list[str] | None, more: list[str]) -> tuple[list[str], tuple[str, ...]]:
        together = [*(paths or []), *more]
        return together, open_study(request, together)

    def close_study(request: gr.Request) -> tuple[tuple[str, ...], str]:
        return open_study(request, None), FOUND

    inputs: list[Any] = [result, open_files, body_part, point, method, checkpoint, insisted]
    measure: dict[str, Any] = {
        "fn": lambda last, percent: controller.performance(last, percent / 100),
        "inputs": [result, prevalence],
        "outputs": performance,
    }
    search: dict[str, Any] = {
        "fn": lambda last, where: controller.similar(last, same_part=where == _SAME),
        "inputs": [result, scope],
        "outputs": similar,
    }
    reading = {"fn": read_study, "inputs": inputs, "outputs": [answer, views, insist, result, report, point]}
    tab = StudyTab(files, body_part, open_files, open_study, point, reading, [measure, search])
    tab.read_on(files.upload(open_study, files, open_files, **_HIDDEN).then)
    tab.read_on(read.click)
    tab.read_on(add.upload(add_views, [files, add], [files, open_files], **_HIDDEN).then)
    tab.read_on(gallery.select(open_example, None, [files, open_files, body_part], **_HIDDEN).then)
    tab.read_on(files.delete(open_study, files, open_files, **_HIDDEN).then)
    for control in (body_part, point, method):
        tab.read_on(control.input, fn=adjust)
    tab.read_on(insist.click(lambda opened: opened, open_files, insisted, **_HIDDEN).then)
    tab.read_on(files.clear(close_study, None, [open_files, body_part], **_HIDDEN).then)
    prevalence.input(**measure, **_HIDDEN, trigger_mode="always_last")
    scope.input(**search, **_HIDDEN)
    for button, kind in ((to_pdf, "pdf"), (to_json, "json")):
        button.click(
            lambda last, percent, kind=kind: controller.report(kind, last, percent / 100), [result, prevalence],
            report, api_visibility="private", concurrency_id="reading",
        )  # fmt: skip
    return tab
