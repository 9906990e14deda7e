"""The tab "About", the disclaimer above all tabs, and the privacy notice of a public page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

DISCLAIMER = (
    "**Not a medical device.** For research and teaching, never for the care of a patient. "
    "Do not upload anything that names a patient."
)

ABOUT = (Path(__file__).parent / "templates" / "about.md").read_text(encoding="utf-8")

PRIVACY = (
    "**Before you upload.** This page runs on a shared server on the internet. Your files are read in its memory, "
    "are not shown to anybody else, and are removed when you leave. Still, upload only pictures that may be shared, "
    "without the name, number or date of a patient in the picture or in the file."
)


@dataclass(frozen=True)
class PrivacyNotice:
    """The privacy notice of one tab.

    Attributes:
        agree: Button that accepts the notice.
        gated: Components that are shown after that.
    """

    agree: gr.Button
    gated: Sequence[Any]


def build_agreement() -> gr.Button:
    """Adds the notice to the page; returns its button."""
    with gr.Column(elem_classes="privacy"):
        gr.Markdown(PRIVACY)
        return gr.Button("I understand: show the upload box", variant="primary")


def connect_notices(notices: Sequence[PrivacyNotice]) -> None:
    """Accepting the notice of one tab accepts it for all tabs."""
    buttons = [notice.agree for notice in notices]
    gated = [component for notice in notices for component in notice.gated]
    for button in buttons:
        button.click(
            lambda: [gr.update(visible=False)] * len(buttons) + [gr.update(visible=True)] * len(gated), None,
            [*buttons, *gated], api_visibility="private", show_progress="hidden",
        )  # fmt: skip
