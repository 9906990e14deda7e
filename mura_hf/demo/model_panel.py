"""The tab "Models": choose a checkpoint, read its card, compare two on the open study."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from ..bundled import BUNDLED
from ..errors import CheckpointError, MuraError
from ..inference import StudyPredictor
from ..models import BODY_PARTS
from ..radiographs import Radiograph
from .answer import answer_html, trouble_html
from .card_text import Card, find_card
from .checkpoints import DEFAULT, Chosen
from .comparison import Contender, comparison_html
from .model_facts import facts_html
from .reading import read_files
from .room import ReadingRoom

_NOTHING = "Open a study first, in the tab “Read a study”."
_PLAIN = (
    '<p class="fine">Shown as it was written. Pictures, links and HTML of somebody else’s card stay text: they could '
    "tell its maker who reads it.</p>"
)


@dataclass(frozen=True)
class ModelPanel:
    """What the page needs of this tab.

    Attributes:
        loading: Events that end once a checkpoint was loaded, or was not; then the open study is to be read again.
    """

    loading: list[Any]


class ModelDesk:
    """What the tab does, without its components. Threads share it.

    Args:
        room: The server's side.
    """

    def __init__(self, room: ReadingRoom) -> None:
        self.room = room

    def load(self, wanted: Chosen) -> tuple[str, str, Card]:
        """Loads a checkpoint: what it is in a line, its facts as HTML, its card.

        Raises:
            CheckpointError: If it cannot be loaded.
        """
        predictor = self.room.checkpoints.get(*wanted)
        return describe(predictor), facts_html(predictor), find_card(*wanted[:2])

    def compare(self, files: Sequence[str], body_part: str | None, one: Chosen, other: Chosen) -> str:
        """HTML of two checkpoints' answers for one study; what goes wrong is said there."""
        if not files:
            return trouble_html(_NOTHING)
        names, radiographs, problems = read_files(self.room.reader, files)
        if not radiographs:
            return answer_html(None, problems)
        part = body_part if body_part in BODY_PARTS else None
        first, second = (
            self._ask(name, chosen, names, radiographs, part) for name, chosen in (("A", one), ("B", other))
        )
        return comparison_html(first, second, radiographs, problems)

    def _ask(
        self, name: str, chosen: Chosen, names: list[str], radiographs: list[Radiograph], part: str | None
    ) -> Contender:
        try:
            predictor = self.room.checkpoints.get(*chosen)
            return Contender(name, predictor(radiographs, names=names, body_part=part))
        except (MuraError, ValueError) as error:  # the latter: a body part that this checkpoint needs, or lacks
            return Contender(name, None, str(error))


def build_model_panel(room: ReadingRoom, chosen: gr.State, files: Component, body_part: gr.Dropdown) -> ModelPanel:
    """Builds the tab.

    Args:
        room: The server's side.
        chosen: The checkpoint that the visitor chose, a `Chosen`; the tab sets it.
        files: Holds the paths of the open study's views.
        body_part: As the visitor gave it; anything else than one of the seven stands for the model's own finding.
    """
    desk = ModelDesk(room)
    folders = room.checkpoints.allow_folders
    line, facts_now, card_now = desk.load(DEFAULT)
    bundled = list(BUNDLED)
    with gr.Row(elem_id="models"):
        with gr.Column(scale=5, min_width=300):
            name = gr.Dropdown(
                bundled,
                value=None,
                allow_custom_value=True,
                label="Name, Hub name" + " or local folder" * folders,
                info="Choose one of the package's own, or type user/model: any image classifier of transformers or "
                "timm with two labels. Empty for the default. A model's own code is never run.",
                elem_id="model-name",
            )
            revision = gr.Textbox(label="Revision", placeholder="main", max_lines=1)
            abnormal_label = gr.Textbox(
                label="Abnormal label",
                placeholder="found by its words",
                info="Only for models whose labels do not tell which of the two means abnormal.",
                max_lines=1,
            )
            load = gr.Button("Load the model", variant="primary", elem_id="model-load")
        with gr.Column(scale=7, min_width=300):
            state = gr.Markdown(line, elem_id="model-state", latex_delimiters=[])
            facts = gr.HTML(facts_now, elem_id="model-facts", js_on_load=None, apply_default_css=False)
    gr.Markdown("## Compare two on the open study")
    with gr.Row(elem_id="comparing"):
        first = gr.Dropdown(bundled, value=bundled[0], allow_custom_value=True, label="Checkpoint A", min_width=140)
        second = gr.Dropdown(bundled, value=bundled[-1], allow_custom_value=True, label="Checkpoint B", min_width=140)
        compare = gr.Button("Compare", min_width=140, elem_id="compare")
    compared = gr.HTML("", elem_id="compared", js_on_load=None, apply_default_css=False)
    with gr.Accordion("Card of the model in use", open=False, elem_id="model-card-box"):
        card = gr.Markdown(_markdown(card_now), elem_id="model-card", latex_delimiters=[])
        card_text = gr.HTML(_plain_text(card_now), elem_id="model-card-text", js_on_load=None, apply_default_css=False)

    def choose(wanted_name: str | None, wanted_revision: str, label: str, last: Chosen) -> tuple[Any, ...]:
        wanted = (wanted_name or "", wanted_revision, label)
        try:
            told, table, text = desk.load(wanted)
        except CheckpointError as error:
            sentence = f"**Not loaded.** {_plain(str(error).rstrip('.'))}. The model that was in use stays."
            return last, sentence, *[gr.skip()] * 5
        names = [*bundled, *[wanted[0]] * (bool(wanted[0]) and wanted[0] not in bundled)]
        offered = gr.update(choices=names)
        return wanted, told, table, _markdown(text), _plain_text(text), offered, offered

    def set_side_by_side(
        paths: Sequence[str] | None, part: str | None, one: str | None, other: str | None, last: Chosen
    ) -> str:
        def full(wanted: str | None) -> Chosen:  # the one in use may need a revision, and a label
            return last if (wanted or "").strip() == last[0].strip() else ((wanted or ""), "", "")

        return desk.compare(paths or [], part, full(one), full(other))

    shown = [chosen, state, facts, card, card_text, first, second]
    loading = [
        event(
            choose, [name, revision, abnormal_label, chosen], shown, api_visibility="private", show_progress="minimal"
        )
        for event in (load.click, revision.submit, abnormal_label.submit)
    ]
    compare.click(
        set_side_by_side, [files, body_part, first, second, chosen], compared, concurrency_id="reading",
        api_visibility="private", show_progress="minimal",
    )  # fmt: skip
    stale: list[Any] = [files, chosen]  # a comparison is of one study and two models
    for state in stale:
        state.change(lambda: "", None, compared, api_visibility="private", show_progress="hidden")
    return ModelPanel(loading)


def describe(predictor: StudyPredictor) -> str:
    """The checkpoint in use in a line of Markdown."""
    config = predictor.model.config
    if config.model_type == "other":
        kind = f"**someone else's checkpoint**: abnormal means {_plain(config.abnormal_means)}"
    elif config.trained_on_phantoms:
        kind = "trained on **synthetic phantoms**"
    else:
        kind = "see its card for what it was trained on"
    return f"In use: {_plain(predictor.checkpoint)} ({_plain(str(config.backbone))}), {kind}."


def _markdown(card: Card) -> str:
    return card.text if card.trusted else ""


def _plain_text(card: Card) -> str:
    return "" if card.trusted else f"{_PLAIN}<pre>{escape(card.text)}</pre>"


def _plain(text: str) -> str:
    """Text as Markdown shows it letter by letter: labels come from strangers, and may not bring pictures or links."""
    return re.sub(r"([\\`*_\[\]()<>#!|~&])", r"\\\1", text)
