"""Twelve phantom studies to try the worklist with, rendered when somebody asks for them.

The tab "Worklist": many studies at once, most likely abnormal first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import CheckpointError, DatasetError, MuraError
from ..inference import StudyFiles, find_studies
from .about_tab import PrivacyWord, build_agreement
from .checkpoints import Chosen
from .context import ReadingRoom
from .examples import EXAMPLES_CHECKPOINT, render_png
from .result import operating_point_choices, trouble_html
from .worklist_controller import OpenedStudy, WorklistDesk, waiting_html

# Part, finding, number of views. Patients of no tree that a bundled checkpoint was trained on.
_STUDIES = (
    ("elbow", "displaced_fracture", 2),
    ("elbow", None, 2),
    ("finger", "subtle_fracture", 3),
    ("finger", None, 2),
    ("forearm", "hardware", 2),
    ("forearm", None, 2),
    ("hand", "degeneration", 3),
    ("hand", None, 3),
    ("humerus", "lytic_lesion", 2),
    ("shoulder", None, 3),
    ("wrist", "displaced_fracture", 3),
    ("wrist", None, 3),
)
_FIRST_SEED = 920_001
_PLACES = {
    f"phantom{number + 1}_{part}_{view + 1}.png": (number, view)
    for number, (part, _, views) in enumerate(_STUDIES)
    for view in range(views)
}


def write_phantoms(folder: Path) -> list[StudyFiles]:
    """Writes the studies, each into a folder of its own.

    Args:
        folder: An empty one.

    Returns:
        They, as `find_studies` finds them.
    """
    for name, (number, view) in _PLACES.items():
        study = folder / f"phantom {number + 1}"
        study.mkdir(exist_ok=True)
        (study / name).write_bytes(_render(number, view))
    return find_studies(folder)


def are_worklist_phantoms(files: Sequence[str]) -> bool:
    """Whether all files are views of these studies, known by name and content."""
    return bool(files) and all(map(_is_ours, map(Path, files)))


def _is_ours(file: Path) -> bool:
    place = _PLACES.get(file.name)
    return place is not None and file.is_file() and file.read_bytes() == _render(*place)


@cache  # all of them together take a few MB
def _render(number: int, view: int) -> bytes:
    part, finding, _ = _STUDIES[number]
    return render_png(_FIRST_SEED + number, part, view, finding)


_KEPT_SECONDS = 4 * 3600
_ON_OPEN = "element.addEventListener('mura-open', (event) => trigger('select', event.detail));"
_HELP = """
Give a ZIP file in which **each folder that holds pictures is one study**, with all its views (PNG, JPEG or DICOM). A
tree like MURA’s does as well: where a folder’s name tells the body part, as `XR_WRIST` does, the model is told it.

```
monday.zip
├── patient 1 wrist/
│   ├── frontal.png
│   └── lateral.png
└── patient 2 hand/
    └── 1.dcm
```

You get a list, most likely abnormal first; each study opens with a click. Names of folders stand in the list: leave
out what names a patient.
"""


@dataclass(frozen=True)
class WorklistPanel:
    """What the page needs of this tab.

    Attributes:
        opened: The study that was opened last, an `OpenedStudy`.
        opening: The event that sets it; on its `success` the study is to be shown.
        point: The operating point.
        words: Of privacy, to be connected with those of other tabs.
    """

    opened: gr.State
    opening: Any
    point: gr.Dropdown
    words: list[PrivacyWord]


def build_worklist_panel(room: ReadingRoom, chosen: gr.State) -> WorklistPanel:
    """Builds the tab.

    Args:
        room: The server's side.
        chosen: The checkpoint that the visitor chose, a `Chosen`.
    """
    desk = WorklistDesk(room)
    first = room.checkpoints.get()
    studies = gr.State([], time_to_live=_KEPT_SECONDS)
    opened = gr.State(None, time_to_live=_KEPT_SECONDS)
    with gr.Row(elem_id="worklist-asking"):
        with gr.Column(scale=5, min_width=300):
            agree = build_agreement() if room.public else None
            with gr.Column(visible=not room.public) as uploading:
                upload = gr.File(
                    label=f"ZIP file of studies, {room.limits.studies:,} at most", file_types=[".zip"],
                    type="filepath", height=150, elem_id="worklist-upload",
                )  # fmt: skip
                path = gr.Textbox(
                    label="Or a folder, ZIP or CSV file on this machine", placeholder="/data/MURA-v1.1/valid",
                    visible=not room.public, max_lines=1,
                )  # fmt: skip
            point = gr.Dropdown(
                operating_point_choices(first), value=first.find_threshold()[0], label="Operating point",
                info="From how high a probability on a study is flagged.", elem_id="worklist-point",
            )  # fmt: skip
            with gr.Row():
                read = gr.Button("Read the studies", variant="primary", min_width=140, elem_id="worklist-read")
                stop = gr.Button("Stop", interactive=False, min_width=90, elem_id="worklist-stop")
        with gr.Column(scale=6, min_width=300):
            gr.Markdown(_HELP, elem_id="worklist-help")
            gr.Markdown(
                f"Nothing at hand? These are **synthetic phantoms**, not patients, read by `{EXAMPLES_CHECKPOINT}` "
                "unless you choose a model.",
                elem_classes="fine",
            )
            try_phantoms = gr.Button("Try it with twelve phantom studies", elem_id="worklist-phantoms")
    progress = gr.HTML("", elem_id="worklist-progress", js_on_load=None)
    with gr.Row(elem_id="worklist-downloads"):
        to_csv = gr.DownloadButton("Download CSV", visible=False, size="sm", elem_id="worklist-csv")
        to_json = gr.DownloadButton("Download JSON", visible=False, size="sm", elem_id="worklist-json")
    table = gr.HTML("", elem_id="worklist-table", js_on_load=_ON_OPEN, apply_default_css=False)

    def begin(request: gr.Request) -> tuple[Any, ...]:
        desk.begin(str(request.session_hash))
        nothing = gr.update(value=None, visible=False)
        waiting = waiting_html("Waiting: one worklist is read at a time …")
        return [], waiting, "", nothing, nothing, *_buttons(reading=True)

    def read_upload(
        zipped: str | None, place: str, named: str | None, who: Chosen, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        yield {progress: waiting_html("Looking for studies …")}
        try:
            found = desk.gather(zipped, "" if room.public else place)
        except DatasetError as error:
            yield {progress: trouble_html(str(error))}
            return
        yield from _read(found, desk.choose(who, phantoms=False), named, str(request.session_hash))

    def read_phantoms(named: str | None, who: Chosen, request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield {progress: waiting_html("Drawing the phantoms …")}
        session = str(request.session_hash)
        found = write_phantoms(room.files.new_folder(session))
        yield from _read(found, desk.choose(who, phantoms=True), named, session)

    def _read(found: list[StudyFiles], who: Chosen, named: str | None, session: str) -> Iterator[dict[Any, Any]]:
        try:
            yield {studies: found, progress: waiting_html("Loading the checkpoint …")}
            predictor = room.checkpoints.get(*who)
            for told, rows, csv, json in desk.read(session, predictor, found, named):
                yield {progress: told, table: rows, to_csv: csv, to_json: json}
        except CheckpointError as error:
            yield {progress: trouble_html(str(error))}

    def end(request: gr.Request) -> None:
        desk.stop(str(request.session_hash))

    def open_study(
        found: list[StudyFiles], last: OpenedStudy | None, event: gr.EventData, request: gr.Request
    ) -> OpenedStudy:
        try:
            study, problems = desk.open(str(request.session_hash), found, event._data.get("study"), last)
        except MuraError as error:
            raise gr.Error(str(error), title="Not opened", print_exception=False) from None
        if problems:
            gr.Warning(" ".join(problems), title="Left out")
        return study

    def offer_points(who: Chosen, named: str | None) -> Any:
        try:
            predictor = room.checkpoints.get(*who)
        except CheckpointError:
            return gr.skip()
        choices = operating_point_choices(predictor)
        known = named in predictor.model.config.operating_points
        return gr.update(choices=choices, value=named if known else predictor.find_threshold()[0])

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    shown = [progress, table, to_csv, to_json]
    for button, fn, inputs in (
        (read, read_upload, [upload, path, point, chosen]),
        (try_phantoms, read_phantoms, [point, chosen]),
    ):
        buttons = [read, try_phantoms, stop]
        button.click(begin, None, [studies, *shown, *buttons], queue=False, **private).then(
            fn, inputs, [studies, *shown], concurrency_id="worklists", concurrency_limit=1, **private
        ).then(lambda: _buttons(reading=False), None, buttons, queue=False, **private)
    stop.click(end, None, None, queue=False, **private)
    chosen.change(offer_points, [chosen, point], point, **private)
    opening = table.select(open_study, [studies, opened], opened, **private)
    return WorklistPanel(opened, opening, point, [PrivacyWord(agree, [uploading])] if agree else [])


def _buttons(*, reading: bool) -> tuple[Any, Any, Any]:
    """Read, phantoms and stop: which of them may be pressed."""
    idle = gr.update(interactive=not reading)
    return idle, idle, gr.update(interactive=reading)
