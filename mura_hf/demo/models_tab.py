"""The card of a checkpoint, as the page may show it.

What is known of a checkpoint that is loaded, as a small table.
Two checkpoints on the same study, side by side. Names come from strangers and are escaped.
The tab "Models": choose a checkpoint, read its card, compare two on the open study.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from ..common import BUNDLED
from ..errors import CheckpointError, MuraError
from ..inference import StudyPrediction, StudyPredictor
from ..inference.loading import Source, find_file, find_source
from ..inference.measured_performance import OperatingPointPerformance
from ..models import BODY_PARTS
from ..radiographs import Radiograph
from .checkpoints import DEFAULT, Chosen
from .context import ReadingRoom
from .reading import read_files
from .result import answer_html, chance_text, is_withheld, trouble_html
from .viewer import film_url, heat_url

MOST_LETTERS = 30_000
"""Of a card; the page shows no more."""

_FRONT_MATTER = re.compile(r"\A\ufeff?---\s*\n.*?\n---\s*(?:\n|\Z)", re.DOTALL)
_PICTURE = re.compile(r"!\[([^\]]*)\]\((\w[\w.-]*\.png)\)")
_NO_CARD = "This checkpoint came without a card, so what it was trained on, and how well it reads, is not known here."
_CUT = "\n\n[Cut here: the card goes on for {:,} letters.]"


@dataclass(frozen=True)
class Card:
    """A card without its front matter.

    Attributes:
        text: What it says.
        trusted: Whether it comes with the package, so that it may be shown as Markdown with its pictures. Anybody
            else's is text: a picture in it would tell its maker who looks.
    """

    text: str
    trusted: bool


def find_card(name: str, revision: str) -> Card:
    """The card of a checkpoint that is loaded; a sentence where it has none.

    Args:
        name: As `Checkpoints.get` takes it; the default one where empty.
        revision: Likewise.
    """
    try:
        source = find_source(name.strip() or None, revision.strip() or None)
    except CheckpointError as error:
        return Card(f"The card cannot be had. {error}", trusted=False)
    file = find_file(source, "README.md")
    if file is None:
        return Card(_NO_CARD, trusted=False)
    return read_card(file, trusted=_is_bundled(source))


def read_card(file: Path, *, trusted: bool) -> Card:
    """Reads a card; a long one is cut, and says so.

    Args:
        file: README.md, beside its pictures.
        trusted: As in `Card`.
    """
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            text = opened.read(10 * MOST_LETTERS)
    except OSError:
        return Card(_NO_CARD, trusted=False)
    text = _FRONT_MATTER.sub("", text).strip()
    if len(text) > MOST_LETTERS:
        text = text[:MOST_LETTERS] + _CUT.format(len(text) - MOST_LETTERS)
    if trusted:
        text = _PICTURE.sub(lambda found: _picture(found[1], file.parent / found[2]), text)
    return Card(text or _NO_CARD, trusted)


def _is_bundled(source: Source) -> bool:
    return Path(source.location).resolve() in [folder.resolve() for folder in BUNDLED.values()]


def _picture(words: str, file: Path) -> str:
    """A picture as part of the text; its words alone where it is not there, as in a Space, which brings no plots."""
    if not file.is_file():
        return f"*{words}: not here; see the card on the Hub.*"
    return f"![{words}](data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()})"


_DIGITS = 12  # of the digest


def facts_html(predictor: StudyPredictor) -> str:
    """Size, backbone, input and weights of a checkpoint, and what its operating points were measured to achieve."""
    config, model = predictor.model.config, predictor.model
    weights = predictor.weights_sha256
    facts = [
        ("Checkpoint", escape(predictor.checkpoint)),
        ("Backbone", escape(str(config.backbone) or "not told")),
        ("Parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}"),
        ("Input", escape(_input_text(predictor))),
        ("Weights, SHA-256", f"<code>{weights[:_DIGITS]}…</code>" if weights else "not known"),
    ]
    rows = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in facts)
    return (
        f'<div class="facts"><div class="scroll" tabindex="0" role="region" aria-label="Facts"><table><caption>Facts'
        f"</caption><tbody>{rows}</tbody></table></div>{_points_html(predictor)}</div>"
    )


def _points_html(predictor: StudyPredictor) -> str:
    points = sorted(predictor.model.config.operating_points.items(), key=lambda point: point[1])
    found = {name: predictor.measured_performance.get(name, float(value), None) for name, value in points}
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{float(value):.3g}</td>{_counts(found[name])}</tr>'
        for name, value in points
    )
    measured = next((one for one in found.values() if one is not None), None)
    of = f"Measured on {escape(measured.held_out)}." if measured else "Not measured for these weights."
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Operating points"><table><caption>Operating points'
        '</caption><thead><tr><th scope="col">Name</th><th scope="col">Flagged above</th><th scope="col">Sensitivity'
        f'</th><th scope="col">Specificity</th></tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="fine">{of}</p>'
    )


def _counts(found: OperatingPointPerformance | None) -> str:
    if found is None:
        return "<td>–</td><td>–</td>"
    right = found.n_normal - found.n_flagged_normal
    return (
        f"<td>{_share(found.n_flagged_abnormal, found.n_abnormal, found.sensitivity)}</td>"
        f"<td>{_share(right, found.n_normal, found.specificity)}</td>"
    )


def _share(count: int, of: int, value: float | None) -> str:
    return f"{count:,} of {of:,} ({value:.2f})" if value is not None else "–"


def _input_text(predictor: StudyPredictor) -> str:
    size = getattr(predictor.processor, "size", None)
    if size is None:
        size = getattr(getattr(predictor.processor, "processor", None), "size", None)
    try:
        return f"{int(size['height'])} × {int(size['width'])} px"  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return "as its own image processor makes it"


_SIDE = 640  # pixels of a picture on its longer side
_SIGNS = {True: "▲ flagged", False: "○ not flagged"}


@dataclass(frozen=True)
class Contender:
    """One of the two.

    Attributes:
        name: "A" or "B".
        study: Its answer; None where it has none.
        trouble: Why it has none.
    """

    name: str
    study: StudyPrediction | None
    trouble: str = ""

    @property
    def told(self) -> StudyPrediction | None:
        """Its answer, unless that is kept back."""
        return None if is_withheld(self.study, False) else self.study

    @property
    def silence(self) -> str:
        """What stands where a figure would, had it told one."""
        return "no answer" if self.study is None else "not shown"


def comparison_html(
    first: Contender, second: Contender, radiographs: Sequence[Radiograph], problems: Sequence[str] = ()
) -> str:
    """Verdicts, the probabilities of each view with their difference, and each view with both heatmaps.

    Args:
        first: On the left, or above.
        second: On the right, or below.
        radiographs: The views that both were given.
        problems: A sentence about each view that neither was given.
    """
    left_out = "".join(f'<div class="notice bad" role="alert">Left out: {escape(told)}</div>' for told in problems)
    sides = "".join(_side_html(one) for one in (first, second))
    pairs = ""
    if first.study is not None or second.study is not None:
        for place, radiograph in enumerate(radiographs):
            film = film_url(radiograph.pixels, _SIDE)
            pairs += _pair_html(first, second, place, film)
    return (
        f'<section class="compared" aria-label="Comparison">{left_out}<div class="sides">{sides}</div>'
        f'{_table_html(first, second)}<div class="pairs">{pairs}</div></section>'
    )


def _table_html(first: Contender, second: Contender) -> str:
    both = (first, second)
    known = first.told or second.told
    if known is None:
        return ""
    rows = [_row_html("Study", both, [one.told.probability if one.told else None for one in both])]
    for place, view in enumerate(known.views):
        rows.append(
            _row_html(
                view.name, both, [one.told.views[place].single_view_probability if one.told else None for one in both]
            )
        )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Probabilities"><table><caption>P(abnormal) of the '
        'study, and of each view as a study of its own</caption><thead><tr><th scope="col">Of</th>'
        f'<th scope="col">{first.name}</th><th scope="col">{second.name}</th><th scope="col">{second.name} − '
        f"{first.name}</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row_html(name: str, both: Sequence[Contender], chances: Sequence[float | None]) -> str:
    cells = [one.silence if chance is None else chance_text(chance) for one, chance in zip(both, chances, strict=True)]
    before, after = chances
    cells.append("–" if before is None or after is None else _signed(after - before))
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _signed(value: float) -> str:
    shown = f"{value:+.2f}"
    return "0.00" if shown in ("+0.00", "-0.00") else shown.replace("-", "−")


def _side_html(one: Contender) -> str:
    answer = trouble_html(one.trouble) if one.study is None else answer_html(one.study)
    return f'<div class="side"><h3>{one.name}</h3>{answer}</div>'


def _pair_html(first: Contender, second: Contender, place: int, film: str) -> str:
    known = first.study or second.study
    name = "" if known is None else escape(known.views[place].name)
    both = "".join(_figure_html(one, place, film, name) for one in (first, second))
    return f'<section class="pair" aria-label="View {name}"><h3><bdi>{name}</bdi></h3><div>{both}</div></section>'


def _figure_html(one: Contender, place: int, film: str, name: str) -> str:
    view = None if one.told is None else one.told.views[place]
    heat, words = "", one.silence
    if view is not None:
        heat = _heat_html(view.heatmap, f"Model attention of {one.name} over {name}")
        words = f"{_SIGNS[view.flagged]}, P(abnormal) {chance_text(view.single_view_probability)}"
        words += "" if heat else ", no heatmap"
    return (
        f'<figure><div class="stage"><div class="film"><img src="{film}" alt="Radiograph {name}">{heat}</div></div>'
        f"<figcaption><b>{one.name}</b> {words}</figcaption></figure>"
    )


def _heat_html(heatmap: np.ndarray | None, words: str) -> str:
    return "" if heatmap is None else f'<img class="heat" src="{heat_url(heatmap)}" alt="{words}">'


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
    if config.model_type == "external":
        kind = f"**someone else's checkpoint**: abnormal means {_plain(config.positive_class_description)}"
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
