"""The Gradio app: wires the panels."""

from typing import Any

import gradio as gr

from .about_tab import ABOUT, DISCLAIMER, connect_words
from .api import add_endpoints
from .checkpoints import DEFAULT
from .context import ReadingRoom
from .log_redaction import DiscreetBlocks
from .models_tab import build_model_panel
from .study_tab import FOUND, build_study_panel
from .worklist_controller import OpenedStudy
from .worklist_tab import build_worklist_panel


def build_app(room: ReadingRoom) -> gr.Blocks:
    """Builds the page.

    Args:
        room: The server's side.

    Raises:
        CheckpointError: If the default checkpoint, or that of the examples, cannot be loaded.
    """
    room.checkpoints.get()
    with DiscreetBlocks(title="mura_hf: a reading room for radiographic studies", analytics_enabled=False) as app:
        gr.Markdown(DISCLAIMER, elem_id="disclaimer")
        gr.Markdown(
            "# mura_hf\nDrop all views of **one** study: you get one answer for it, and see where the model looked.",
            elem_id="heading",
        )
        chosen = gr.State(DEFAULT)
        with gr.Tabs(selected="read", elem_id="tabs") as tabs:
            with gr.Tab("Read a study", id="read"):
                study = build_study_panel(room, chosen)
            with gr.Tab("Worklist", id="worklist"):
                worklist = build_worklist_panel(room, chosen)
            with gr.Tab("Models", id="models"):
                models = build_model_panel(room, chosen, study.open_files, study.body_part)
            with gr.Tab("About", id="about"):
                gr.Markdown(ABOUT, elem_id="about")
        add_endpoints(room)

        connect_words([*study.words, *worklist.words])

        def show(
            request: gr.Request, opened: OpenedStudy, point: str
        ) -> tuple[Any, list[str], tuple[str, ...], str, str]:
            views = study.open_study(request, opened.files)
            return gr.Tabs(selected="read"), opened.files, views, opened.body_part or FOUND, point

        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        study.read_on(
            worklist.opening.success(
                show,
                [worklist.opened, worklist.point],
                [tabs, study.files, study.open_files, study.body_part, study.point],
                **private,
            ).then
        )
        for loading in models.loading:
            study.read_on(loading.then)
    return app
