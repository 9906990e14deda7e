"""Builds the page from its tabs, and connects them."""

from typing import Any

import gradio as gr

from .about_tab import ABOUT, DISCLAIMER, connect_notices
from .api import add_endpoints
from .log_redaction import RedactingBlocks
from .models_tab import build_models_tab
from .state import DEFAULT, AppContext
from .study_tab import FOUND, build_study_tab
from .worklist_controller import OpenedStudy
from .worklist_tab import build_worklist_tab


def build_app(context: AppContext) -> gr.Blocks:
    """Builds the page and its endpoints.

    Raises:
        CheckpointError: If the default checkpoint, or that of the examples, cannot be loaded.
    """
    context.checkpoints.get()
    with RedactingBlocks(title="mura_hf: abnormality detection in radiographs", analytics_enabled=False) as app:
        gr.Markdown(DISCLAIMER, elem_id="disclaimer")
        gr.Markdown(
            "# mura_hf\nDrop all views of **one** study. You get one answer for the study, and see where the model "
            "looked.",
            elem_id="heading",
        )
        checkpoint = gr.State(DEFAULT)  # the checkpoint that the visitor chose
        with gr.Tabs(selected="read", elem_id="tabs") as tabs:
            with gr.Tab("Read a study", id="read"):
                study = build_study_tab(context, checkpoint)
            with gr.Tab("Worklist", id="worklist"):
                worklist = build_worklist_tab(context, checkpoint)
            with gr.Tab("Models", id="models"):
                load_events = build_models_tab(context, checkpoint, study.open_files, study.body_part)
            with gr.Tab("About", id="about"):
                gr.Markdown(ABOUT, elem_id="about")
        add_endpoints(context)
        connect_notices([*study.notices, *worklist.notices])

        def show(
            request: gr.Request, opened: OpenedStudy, point: str
        ) -> tuple[Any, list[str], tuple[str, ...], str, str]:
            files = study.open_study(request, opened.files)
            return gr.Tabs(selected="read"), opened.files, files, opened.body_part or FOUND, point

        opening = worklist.open_event.success(
            show,
            [worklist.opened, worklist.point],
            [tabs, study.files, study.open_files, study.body_part, study.point],
            api_visibility="private",
            show_progress="hidden",
        )
        study.read_on(opening.then)
        for loading in load_events:
            study.read_on(loading.then)
    return app
