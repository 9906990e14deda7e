"""The tab "About", the disclaimer above all tabs, and the privacy notice of a public page."""

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


class PrivacyNotice:
    """The notice of a public page. Accepted in one tab, it is accepted for all tabs.

    Attributes:
        gated: Components that are shown after that. Tabs append theirs.
    """

    def __init__(self) -> None:
        self.gated: list[Any] = []
        self._buttons: list[gr.Button] = []

    def add(self) -> None:
        """Adds the notice with its button to the page."""
        with gr.Column(elem_classes="privacy"):
            gr.Markdown(PRIVACY)
            self._buttons.append(gr.Button("I understand: show the upload box", variant="primary"))

    def connect(self) -> None:
        """Connects the buttons of all tabs."""
        outputs = [*self._buttons, *self.gated]
        updates = [gr.update(visible=component in self.gated) for component in outputs]
        for button in self._buttons:
            button.click(lambda: updates, None, outputs, api_visibility="private", show_progress="hidden")
