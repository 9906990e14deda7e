"""The Gradio app: wires the panels."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from ..bundled import BUNDLED
from ..errors import CheckpointError
from ..models import BODY_PARTS
from ..radiographs import GuardedReader
from .answer import EMPTY, answer_html, is_withheld, trouble_html, views_html
from .checkpoints import Checkpoints
from .examples import EXAMPLES_CHECKPOINT, are_examples, make_examples, without_examples
from .reading import read_study
from .style import CSS, make_theme

_FOUND = "found by the model"
_NONE = ("", "", "")  # chosen: the default; else name, revision, abnormal label
_HIDDEN = gr.update(visible=False)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DISCLAIMER = (
    "**Not a medical device.** For research and teaching, never for the care of a patient. "
    "Upload nothing that names one."
)
_SET_HEAT = (
    "(value) => { if (value !== null) document.documentElement.style.setProperty('--mura-heat', value / 100); }"
)
_SET_BOX = "(shown) => { document.documentElement.style.setProperty('--mura-box', shown ? 1 : 0); }"


def build_app(*, allow_folders: bool) -> gr.Blocks:
    """Builds the page.

    Args:
        allow_folders: Whether the model box takes local folders; only where the app serves on loopback.

    Raises:
        CheckpointError: If the default checkpoint cannot be loaded.
    """
    checkpoints = Checkpoints(allow_folders=allow_folders)
    default = checkpoints.get()
    example_folder = tempfile.TemporaryDirectory(prefix="mura_hf_examples_")
    reader = GuardedReader()
    reader.start()  # ready before the first upload
    examples = make_examples(Path(example_folder.name))

    def answer(
        files: list[str] | None, body_part: str, chosen: tuple[str, str, str], anyway: bool = False
    ) -> tuple[str, str, Any]:
        if not files:
            return EMPTY, "", _HIDDEN
        try:
            synthetic = chosen == _NONE and are_examples(files, examples)
            predictor = checkpoints.get(EXAMPLES_CHECKPOINT) if synthetic else checkpoints.get(*chosen)
            part = None if body_part == _FOUND else body_part
            study, radiographs, problems = read_study(predictor, reader, files, part)
        except (CheckpointError, ValueError) as error:  # the latter: a body part that this checkpoint needs, or lacks
            return trouble_html(str(error)), "", _HIDDEN
        shown = views_html(study, radiographs, anyway=anyway) if study else ""
        return answer_html(study, problems, anyway=anyway), shown, gr.update(visible=is_withheld(study, anyway))

    def answer_anyway(files: list[str] | None, body_part: str, chosen: tuple[str, str, str]) -> tuple[str, str, Any]:
        return answer(files, body_part, chosen, anyway=True)

    def take_uploads(files: list[str]) -> list[str]:
        own = without_examples(files, examples)
        if len(own) < len(files):
            gr.Info("The example was put away: what you upload is a study of its own.")
        return own

    def choose_example(event: gr.SelectData) -> tuple[list[str], str]:
        return examples[event.index].files, _FOUND  # a part given for another study does not hold for this one

    def choose_checkpoint(
        name: str | None, revision: str, abnormal_label: str, chosen: tuple[str, str, str]
    ) -> tuple[tuple[str, str, str], str]:
        wanted = (name or "", revision, abnormal_label)
        try:
            predictor = checkpoints.get(*wanted)
        except CheckpointError as error:
            return chosen, f"**Not loaded.** {_plain(str(error).rstrip('.'))}. The model that was in use stays."
        return wanted, _describe(predictor.checkpoint, predictor.model.config)

    with gr.Blocks(title="mura_hf: read a study", analytics_enabled=False, delete_cache=(600, 4 * 3600)) as app:
        app.example_folder = example_folder  # lives as long as the app
        gr.Markdown(_DISCLAIMER, elem_id="disclaimer")
        gr.Markdown(
            "# Read a radiographic study\nDrop all views of **one** study: finger, hand, wrist, forearm, "
            "elbow, humerus or shoulder. You get one answer for the study, and where the model looked.",
            elem_id="heading",
        )
        chosen = gr.State(_NONE)
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                files = gr.File(
                    label="Views of one study (PNG, JPEG or DICOM, 8 to 16 bit)",
                    file_count="multiple",
                    type="filepath",
                    height=190,
                )
                gr.Markdown(
                    "Further files join this study. Clear the box (✕) before the next one.", elem_classes="fine"
                )
                body_part = gr.Dropdown([_FOUND, *BODY_PARTS], value=_FOUND, label="Body part")
                read = gr.Button("Read the study", variant="primary")
                gr.Markdown(
                    "Or choose an example. These are **synthetic phantoms**, not patients, and are read by "
                    f"`{EXAMPLES_CHECKPOINT}` unless you choose a model."
                )
                gallery = gr.Gallery(
                    [(example.files[0], example.caption) for example in examples],
                    label="Examples: synthetic phantoms",
                    show_label=False,
                    elem_id="examples",
                    columns=3,
                    height="auto",
                    buttons=[],
                    allow_preview=False,
                    object_fit="contain",
                    interactive=False,
                )
                with gr.Accordion("Model", open=False):
                    name = gr.Dropdown(
                        list(BUNDLED),
                        value=None,
                        allow_custom_value=True,
                        label="Name, Hub name" + " or local folder" * allow_folders,
                        info="Choose one of the package's own, or type user/model: any image classifier of "
                        "transformers or timm with two labels. Empty for the default. A model's own code is never "
                        "run.",
                    )
                    revision = gr.Textbox(label="Revision", placeholder="main")
                    abnormal_label = gr.Textbox(
                        label="Abnormal label",
                        placeholder="found by its words",
                        info="Only for models whose labels do not tell which of the two means abnormal.",
                    )
                    load = gr.Button("Load the model")
                    state = gr.Markdown(_describe(default.checkpoint, default.model.config), elem_id="model-state")
            with gr.Column(scale=7, min_width=320):
                verdict = gr.HTML(EMPTY, elem_id="answer")
                insist = gr.Button("Show the answer anyway", visible=False, elem_id="anyway")
                with gr.Row():
                    opacity = gr.Slider(
                        0, 100, value=50, step=5, label="Heatmap opacity (%)", elem_id="opacity", min_width=130
                    )
                    box = gr.Checkbox(True, label="Show boxes of flagged views", min_width=130)
                views = gr.HTML("", elem_id="views")
                gr.Markdown(
                    "A heatmap (Grad-CAM) shows the **model's attention** for abnormal against normal, not a lesion. "
                    "Each is scaled to its own maximum, so a view that is not flagged has colours too."
                )

        asked, shown = [files, body_part, chosen], [verdict, views, insist]
        reading: dict[str, Any] = {"fn": answer, "inputs": asked, "outputs": shown}
        files.upload(take_uploads, files, files, api_visibility="private").then(**reading, api_visibility="private")
        files.delete(**reading, api_visibility="private")
        body_part.input(**reading, api_visibility="private")
        read.click(**reading, api_visibility="private")
        insist.click(answer_anyway, asked, shown, api_visibility="private")
        files.clear(lambda: (_FOUND, EMPTY, "", _HIDDEN), None, [body_part, *shown], api_visibility="private")
        gallery.select(choose_example, None, [files, body_part], api_visibility="private").then(
            **reading, api_visibility="private"
        )
        opacity.change(None, opacity, None, js=_SET_HEAT)
        box.input(None, box, None, js=_SET_BOX)
        loading: dict[str, Any] = {
            "fn": choose_checkpoint,
            "inputs": [name, revision, abnormal_label, chosen],
            "outputs": [chosen, state],
        }
        for event in (load.click, revision.submit, abnormal_label.submit):
            # A study may still be read by the last model; by default its end would swallow the reading by this one.
            event(**loading, api_visibility="private").then(
                **reading, api_visibility="private", trigger_mode="always_last"
            )
    return app


def _describe(name: str, config: Any) -> str:
    if config.model_type == "other":
        kind = f"**someone else's checkpoint**: abnormal means {_plain(config.abnormal_means)}"
    elif config.trained_on_phantoms:
        kind = "trained on **synthetic phantoms**"
    else:
        kind = "not marked as trained on synthetic phantoms; its card says on what it was"
    return f"In use: `{name}` ({config.backbone}), {kind}."


def _plain(text: str) -> str:
    """Text as Markdown shows it letter by letter: labels come from strangers, and may not bring pictures or links."""
    return re.sub(r"([\\`*_\[\]()<>#!|~&])", r"\\\1", text)


def launch() -> None:
    """Builds and serves the app; host and port from `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT`, else
    127.0.0.1:7860.
    """
    host = os.environ.get("GRADIO_SERVER_NAME", _LOOPBACK[0])
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    try:
        app = build_app(allow_folders=host in _LOOPBACK)
    except CheckpointError as error:
        raise SystemExit(f"The app cannot start without a checkpoint. {error}") from None
    app.queue(max_size=64, default_concurrency_limit=2)
    app.launch(
        server_name=host,
        server_port=port,
        theme=make_theme(),
        css=CSS,
        share=False,  # what follows is said outright, lest the environment say otherwise
        mcp_server=False,
        allowed_paths=[],
        max_file_size="30mb",
        show_error=False,
        enable_monitoring=False,
        strict_cors=True,
        run_history=False,
        footer_links=[],
    )
