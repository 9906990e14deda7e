"""The tab "Read a study"."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

import gradio as gr

from ..explain import AUTO, METHODS
from ..models import BODY_PARTS
from .about_tab import PrivacyWord, build_agreement
from .checkpoints import DEFAULT, Chosen
from .context import ReadingRoom
from .controller import Opened, Question, Reading, StudyDesk, Turns, progress_html
from .examples import EXAMPLES_CHECKPOINT

FOUND = "found by the model"
PREVALENCE = 10  # percent
_ANYWHERE, _SAME = "Whole database", "Same body part"
_SLOW = ("smooth_grad_cam", "occlusion")
_METHODS = {
    AUTO: "Grad-CAM, the cheapest exact way",
    "class_activation_map": "Class activation map",
    "head_gradient": "Grad-CAM by the head’s gradient",
    "grad_cam": "Grad-CAM by Captum",
    "layer_cam": "LayerCAM",
    "smooth_grad_cam": "Smooth Grad-CAM (slower)",
    "occlusion": "Occlusion (slowest)",
}


@dataclass(frozen=True)
class StudyPanel:
    """What the other tabs need of this one.

    Attributes:
        files: The box of what the visitor brought.
        body_part: As it was given, or `FOUND`.
        open_files: The views of the study that is open, the box's or an example's: a tuple of paths.
        open_study: Gives what `open_files` is to hold; a reading that still runs is passed over.
        point: The operating point.
        words: Of privacy, to be connected with those of other tabs.
        reading: What reads the open study: `fn`, `inputs` and `outputs` of an event.
        after: Likewise, what follows on a reading.
    """

    files: gr.File
    body_part: gr.Dropdown
    open_files: gr.State
    open_study: Callable[[gr.Request, Sequence[str] | None], tuple[str, ...]]
    point: gr.Dropdown
    words: list[PrivacyWord]
    reading: dict[str, Any]
    after: list[dict[str, Any]]

    def read_on(self, listener: Callable[..., Any]) -> Any:
        """Reads the open study when something happens, `button.click` or `event.then`, and shows what follows."""
        event = listener(**self.reading, **_READING)
        for step in self.after:
            event = event.then(**step, api_visibility="private", show_progress="hidden")
        return event


_READING: dict[str, Any] = {
    "api_visibility": "private",
    "concurrency_id": "reading",
    "show_progress": "minimal",
    "trigger_mode": "always_last",  # by default a reading that still runs would swallow the next one
}


def build_study_panel(room: ReadingRoom, chosen: gr.State) -> StudyPanel:
    """Builds the tab. Its first paint shows an example that is answered already.

    Args:
        room: The server's side.
        chosen: The checkpoint that the visitor chose, a `Chosen`.
    """
    desk, turns = StudyDesk(room), Turns()
    first = room.examples[0]
    opened = desk.open(Question(tuple(first.files), desk.choose(tuple(first.files), DEFAULT)))
    reading = gr.State(opened.reading)
    open_files = gr.State(tuple(first.files))
    insisted = gr.State(())  # the views of a strange study whose answer is wanted all the same
    with gr.Row(elem_id="study"):
        with gr.Column(scale=4, min_width=300, elem_id="asking"):
            agree = build_agreement() if room.public else None
            with gr.Column(visible=not room.public, elem_id="uploading") as uploading:
                files = gr.File(label="Views of one study", file_count="multiple", type="filepath", height=160)
                gr.Markdown(
                    "PNG, JPEG or DICOM, 8 to 16 bit, or a ZIP of them. Clear the box (✕) before the next study.",
                    elem_classes="fine",
                )
            with gr.Row(elem_id="doing"):
                read = gr.Button("Read the study", variant="primary", min_width=130, elem_id="read")
                add = gr.UploadButton(
                    "Add views", file_count="multiple", type="filepath", min_width=90, visible=not room.public,
                    elem_id="add-views",
                )  # fmt: skip
            gr.Markdown(
                "**Examples: synthetic phantoms**, not patients. They are read by "
                f"`{EXAMPLES_CHECKPOINT}` unless you choose a model."
            )
            gallery = gr.Gallery(
                [(example.files[0], example.caption) for example in room.examples],
                label="Examples: synthetic phantoms", show_label=False, elem_id="examples", columns=3, height="auto",
                buttons=[], allow_preview=False, object_fit="contain", interactive=False,
            )  # fmt: skip
        with gr.Column(scale=4, min_width=300, elem_id="setting"):
            body_part = gr.Dropdown([FOUND, *BODY_PARTS], value=FOUND, label="Body part")
            with gr.Group():
                point = gr.Dropdown(
                    opened.points, value=opened.point,
                    label="Operating point", elem_id="operating-point",
                )  # fmt: skip
                prevalence = gr.Slider(
                    1, 90, value=PREVALENCE, step=1, label="Abnormal of 100 studies where you are (prevalence)",
                    elem_id="prevalence",
                )  # fmt: skip
                achieved = gr.HTML(desk.achieved(opened.reading, PREVALENCE / 100), elem_id="achieved")
            # One visitor's occlusion would hold up all others for minutes.
            methods = [name for name in (AUTO, *METHODS) if not (room.public and name in _SLOW)]
            method = gr.Dropdown([(_METHODS[name], name) for name in methods], value=AUTO, label="Heatmap method")
        with gr.Column(scale=8, min_width=300, elem_id="answering"):
            verdict = gr.HTML(opened.answer, elem_id="answer")
            insist = gr.Button("Show the answer anyway", visible=opened.withheld, elem_id="anyway")
            views = gr.HTML(opened.viewer, elem_id="views")
            with gr.Row(elem_id="reports"):
                to_pdf = gr.Button("Report as PDF", size="sm", min_width=120)
                to_json = gr.Button("Report as JSON", size="sm", min_width=120)
            report = gr.HTML("", elem_id="report")
        with gr.Column(scale=8, min_width=300, elem_id="alike"):
            gr.Markdown("## Similar cases")
            scope = gr.Radio([_ANYWHERE, _SAME], value=_ANYWHERE, label="Search in", elem_id="scope")
            similar = gr.HTML(desk.similar(opened.reading, same_part=False), elem_id="similar")

    def ask(
        place: tuple[str, ...],
        part: str,
        named: str | None,
        how: str,
        who: Chosen,
        wanted: tuple[str, ...],
    ) -> Question:
        return Question(place, desk.choose(place, who), None if part == FOUND else part, named, how, place == wanted)

    def answer(request: gr.Request, *asked: Any) -> Iterator[dict[Any, Any]]:
        question = ask(*asked[1:])
        session, turn = str(request.session_hash), object()
        turns.begin(session, turn)
        news: SimpleQueue[tuple[int, int, str]] = SimpleQueue()
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
            coming = pool.submit(desk.open, question, lambda *told: news.put(told))
            read: list[str] = []
            while not coming.done():
                try:
                    done, total, name = news.get(timeout=0.02)
                except Empty:
                    continue
                read += [name] * (done > 0)
                if turns.is_last(session, turn):
                    yield {verdict: progress_html(question.files, read, total), report: ""}
        if turns.is_last(session, turn):  # else the page shows something else by now
            yield _shown(coming.result())
        else:
            yield {report: gr.skip()}  # to yield nothing would empty the page

    def adjust(request: gr.Request, *asked: Any) -> Iterator[dict[Any, Any]]:
        """A dropdown also speaks up when the keyboard passes it by."""
        if asked[0] is None or asked[0].question != ask(*asked[1:]):
            yield from answer(request, *asked)
        else:
            yield {report: gr.skip()}

    def _shown(found: Opened) -> dict[Any, Any]:
        shown: dict[Any, Any] = {
            verdict: found.answer,
            views: found.viewer,
            insist: gr.update(visible=found.withheld),
            reading: found.reading,
            report: "",
        }
        if found.points is not None:
            shown[point] = gr.update(choices=found.points, value=found.point)
        return shown

    def open_study(request: gr.Request, paths: Sequence[str] | None) -> tuple[str, ...]:
        """Only what the visitor does opens a study, never a reading that ends; one that still runs is passed over."""
        turns.begin(str(request.session_hash), object())
        return tuple(paths or ())

    def choose_example(request: gr.Request, event: gr.SelectData) -> tuple[None, tuple[str, ...], str]:
        # What was said of another study does not hold for this one.
        return None, open_study(request, room.examples[event.index].files), FOUND

    def add_views(request: gr.Request, paths: list[str] | None, more: list[str]) -> tuple[list[str], tuple[str, ...]]:
        together = [*(paths or []), *more]
        return together, open_study(request, together)

    def close_study(request: gr.Request) -> tuple[tuple[str, ...], str]:
        return open_study(request, None), FOUND

    def measure(found: Reading | None, percent: float) -> str:
        return desk.achieved(found, percent / 100)

    def search(found: Reading | None, where: str) -> str:
        return desk.similar(found, same_part=where == _SAME)

    asked: list[Any] = [reading, open_files, body_part, point, method, chosen, insisted]
    panel = StudyPanel(
        files,
        body_part,
        open_files,
        open_study,
        point,
        [PrivacyWord(agree, [uploading, add])] if agree else [],
        {"fn": answer, "inputs": asked, "outputs": [verdict, views, insist, reading, report, point]},
        [
            {"fn": measure, "inputs": [reading, prevalence], "outputs": achieved},
            {"fn": search, "inputs": [reading, scope], "outputs": similar},
        ],
    )
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    panel.read_on(files.upload(open_study, files, open_files, **private).then)
    panel.read_on(read.click)
    panel.read_on(add.upload(add_views, [files, add], [files, open_files], **private).then)
    panel.read_on(gallery.select(choose_example, None, [files, open_files, body_part], **private).then)
    panel.read_on(files.delete(open_study, files, open_files, **private).then)
    adjusting = replace(panel, reading={**panel.reading, "fn": adjust})
    for control in (body_part, point, method):
        adjusting.read_on(control.input)
    panel.read_on(insist.click(lambda shown: shown, open_files, insisted, **private).then)
    panel.read_on(files.clear(close_study, None, [open_files, body_part], **private).then)
    prevalence.input(**panel.after[0], **private, trigger_mode="always_last")
    scope.input(**panel.after[1], **private)
    for button, kind in ((to_pdf, "pdf"), (to_json, "json")):
        button.click(
            lambda found, percent, kind=kind: desk.report(kind, found, percent / 100), [reading, prevalence], report,
            api_visibility="private", concurrency_id="reading",
        )  # fmt: skip
    return panel
