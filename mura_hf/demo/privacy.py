"""The word before the first upload, where strangers share the server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

PRIVACY = (
    "**Before you upload.** This page runs on a shared server on the internet. What you upload is read in its memory, "
    "is seen by nobody, and is removed when you leave. Still: upload only pictures that may be shared, with no name, "
    "number or date of a patient in the picture or in the file."
)


@dataclass(frozen=True)
class PrivacyWord:
    """The word in one tab.

    Attributes:
        agree: Button of who has read it.
        gated: What is shown from then on.
    """

    agree: gr.Button
    gated: Sequence[Any]


def build_agreement() -> gr.Button:
    """Adds the word; returns its button."""
    with gr.Column(elem_classes="privacy"):
        gr.Markdown(PRIVACY)
        return gr.Button("I understand: show the upload box", variant="primary")


def connect_words(words: Sequence[PrivacyWord]) -> None:
    """Makes who has agreed in one tab have agreed in all."""
    buttons = [word.agree for word in words]
    gated = [component for word in words for component in word.gated]
    for button in buttons:
        button.click(
            lambda: [gr.update(visible=False)] * len(buttons) + [gr.update(visible=True)] * len(gated), None,
            [*buttons, *gated], api_visibility="private", show_progress="hidden",
        )  # fmt: skip
