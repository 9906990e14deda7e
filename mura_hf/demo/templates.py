"""The texts of the page: fixed ones, and HTML that is rendered from `templates/*.html`.

Names of files, labels and cards come from strangers. They reach the page in two ways only: as values of a template,
which escapes them, or through `escape_text` where Gradio renders HTML itself. `gr.Markdown` gets fixed texts and the
cards of the package only, because no escaping stops it from making links of addresses.
"""

import os
from pathlib import Path
from typing import Any

import gradio as gr
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import escape

from ..explain import AUTO
from ..inference.prediction import OPERATING_POINTS

DISCLAIMER = "**Not a medical device.** For research and teaching only. Do not upload anything that names a patient."

RETENTION = "Uploads are removed within two minutes after you close the page, and after one hour without use."
"""Also in README.md. The numbers are those of `Uploads`."""

TAGLINE = (
    "Drop an X-ray of a finger, hand, wrist, arm or shoulder. A small research model says at once whether it suspects "
    "{a_finding}, and marks where."
)
FORMATS = "PNG, JPEG, TIFF, BMP, WebP, DICOM or a ZIP file. All views together are one study."
NEW_STUDY, ADD_VIEWS, STUDY_FILES = "Choose an X-ray", "Add views", "Files of this study"
SHOW_ANYWAY = "Show the answer anyway"
INCLUDE = "Include what was left out"
FOREIGN = "{} does not look like an upper-limb X-ray, so the answer is given without it."
HOW_SURE, ALIKE, REPORT, OPTIONS = "How sure is this?", "Similar X-rays", "Save a report", "More options"
PREVALENCE = "Studies with a finding among 100 that you read (prevalence)"
OPERATING_POINT, BODY_PART, METHOD, SEARCH = "Operating point", "Body part", "Heatmap method", "Search in"
FOUND = "found by the model"
ANYWHERE, SAME_PART = "Whole database", "Same body part"
METHODS = {
    AUTO: "Grad-CAM (default)",
    "class_activation_map": "Class activation map",
    "head_gradient": "Grad-CAM by the gradient of the head",
    "grad_cam": "Grad-CAM by Captum",
    "layer_cam": "LayerCAM",
    "smooth_grad_cam": "Smooth Grad-CAM (slower)",
    "occlusion": "Occlusion (slowest)",
}
REPORTS = {"pdf": "Report as PDF", "json": "Report as JSON"}

ARCHIVE = "ZIP file with at most {:,} studies"
PLACE = "Or a folder, ZIP or CSV file on the computer that runs this page"
POINT_INFO = "The probability above which a study is flagged."
READ_STUDIES, STOP, TRY_PHANTOMS = "Read the studies", "Stop", "Try it with twelve phantom studies"
NO_STUDIES = (
    "No studies at hand? Try **synthetic phantoms**, which are not patients. They are read by `{}` unless you choose "
    "a model."
)
DOWNLOADS = {"csv": "Download CSV", "json": "Download JSON"}
WAITING, SEARCHING, LOADING = (
    "Waiting: the server reads one worklist at a time …", "Searching for studies …", "Loading the checkpoint …",
)  # fmt: skip

MODEL_NAME, MODEL_FOLDER = "Name, Hub name", " or local folder"
MODEL_INFO = (
    "Choose a bundled checkpoint, or type user/model: any image classifier of transformers or timm with two labels. "
    "Empty for the default. Code from the Hub is never run."
)
REVISION, ABNORMAL_LABEL, LABEL_HINT = "Revision", "Abnormal label", "found by its name"
LABEL_INFO = "Only needed if the two labels of a model do not say which one means abnormal."
LOAD, COMPARE, COMPARE_TITLE = "Load the model", "Compare", "## Compare two on the open study"
COMPARING = "Both checkpoints read the study …"
CHECKPOINT_A, CHECKPOINT_B = "Checkpoint A", "Checkpoint B"
CARD = "Card of the model in use"
NO_CARD = "This checkpoint has no model card, so its training data and its performance are unknown."
UNTRUSTED_CARD = (
    "Shown as plain text. Pictures and links in a card by another author could show that author who reads it."
)

BANDS = {
    "suspected": ("▲", "suspected"),
    "uncertain": ("◐", "uncertain"),
    "low": ("○", "not flagged"),
    "unusual": ("⊘", "not answered"),
    "failed": ("✕", "not read"),
}
"""Sign and text of each band of a view or a study, in the order in which the worklist sorts."""


def render(template: str, **values: Any) -> str:
    """Renders a template by its name without ".html"."""
    return _ENVIRONMENT.get_template(f"{template}.html").render(values)


def escape_text(text: str) -> str:
    """HTML that shows a text as it is. For `gr.Warning`, `gr.Info` and `gr.Error`, whose texts Gradio renders."""
    return str(escape(_encodable(text)))


def with_article(noun: str) -> str:
    """A noun with its article: "a fracture"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def about_text(space: str, credits: list[str]) -> str:
    """The tab "About" as Markdown.

    Args:
        space: Name of the Space that serves the page; empty elsewhere, where it is at the port that Gradio would take.
        credits: Whom to credit for the films among the examples.
    """
    address = space or f"http://127.0.0.1:{os.environ.get('GRADIO_SERVER_PORT', '7860')}"
    values = {"retention": RETENTION, "address": address, "credits": credits}
    return _ENVIRONMENT.get_template("about.md").render(values)


def error_html(sentence: str) -> str:
    """An error message that is not about a single file."""
    return render("message", error=sentence)


def note_html(sentence: str) -> str:
    """A sentence in small print."""
    return render("message", note=sentence)


def probability_text(probability: float) -> str:
    """A probability with two decimals that never looks certain."""
    if probability < 0.005:
        return "below 0.01"
    return f"{probability:.2f}" if probability < 0.995 else "above 0.99"


def operating_point_text(name: str) -> str:
    """The name of an operating point on the page."""
    return OPERATING_POINTS.get(name, name)


def _of_100(share: float) -> str:
    """A share as a count that never looks certain: not seen in the measurement does not mean never."""
    if share >= 0.995:
        return "more than 99"
    return f"{100 * share:.0f}" if share >= 0.005 else "fewer than 1"


def _encodable(text: str) -> str:
    """Text that can be encoded: a file name may contain bytes that are not characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters |= {
    "encodable": _encodable,
    "fixed": format,
    "of_100": _of_100,
    "operating_point": operating_point_text,
    "probability": probability_text,
    "unusual": lambda views: [view.name for view in views if view.in_distribution is False],
    "words": lambda name: name.replace("_", " "),
}

PRIVACY = (
    "**Before you upload.** This page runs on a shared server on the internet. Nobody else sees your files. "
    f"{RETENTION} Still, upload only pictures that may be shared, without the name, number or date of a patient in "
    "the picture or in the file."
)
AGREE = "I understand"


class PrivacyNotice:
    """The notice of a public page. Accepted in one tab, it is accepted for all tabs.

    Attributes:
        gated: Components that are shown after that. Tabs append theirs.
    """

    def __init__(self) -> None:
        self.gated: list[Any] = []
        self._boxes: list[gr.Column] = []
        self._buttons: list[gr.Button] = []

    def add(self) -> None:
        """Adds the notice with its button to the page."""
        with gr.Column(elem_classes="privacy") as box:
            gr.Markdown(PRIVACY)
            self._buttons.append(gr.Button(AGREE, variant="primary"))
        self._boxes.append(box)

    def connect(self) -> None:
        """Connects the buttons of all tabs."""
        outputs = [*self._boxes, *self.gated]
        updates = [gr.update(visible=component in self.gated) for component in outputs]
        for button in self._buttons:
            button.click(lambda: updates, None, outputs, api_visibility="private", show_progress="hidden")
