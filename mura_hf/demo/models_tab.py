"""The tab "Models": choose a checkpoint, read its model card, and compare two checkpoints on the open study."""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from ..common import BODY_PARTS, BUNDLED
from ..errors import CheckpointError, MuraError
from ..inference import StudyPrediction, StudyPredictor
from ..inference.loading import find_file, find_source
from ..radiographs import Radiograph
from . import templates
from .examples import find_example
from .reading import read_files
from .result import answer_html, credit_text, details_html, is_withheld
from .state import DEFAULT, AppContext, CheckpointKey
from .templates import BANDS, error_html, note_html, probability_text, render
from .viewer import box_style, heatmap_url, image_url

MAX_CARD = 30_000
"""Characters of a card that the page shows."""

_FRONT_MATTER = re.compile(r"\A\ufeff?---[^\S\n]*\n(?:.*\n)*?---[^\S\n]*(?:\n|\Z)")  # in linear time
_PICTURE = re.compile(r"!\[([^\]]*)\]\((\w[\w.-]*\.png)\)")
_IMAGE_SIDE = 640  # pixels of a view in a comparison


@dataclass(frozen=True)
class Card:
    """A model card without its front matter.

    It is trusted, and shown as Markdown with pictures, only if it comes with the package: a picture in another card
    could reveal who reads it.
    """

    text: str
    trusted: bool

    @property
    def shown(self) -> tuple[str, str]:
        """Its Markdown and its HTML, one of which is empty."""
        if self.trusted:
            return self.text, ""
        return "", f"{note_html(templates.UNTRUSTED_CARD)}<pre>{escape(self.text)}</pre>"


def find_card(name: str, revision: str) -> Card:
    """Returns the card of a checkpoint, named as in a `CheckpointKey`, or a sentence if it has none."""
    try:
        source = find_source(name.strip() or None, revision.strip() or None)
    except CheckpointError as error:
        return Card(templates.UNREADABLE_CARD.format(error), trusted=False)
    file = find_file(source, "README.md")
    if file is None:
        return Card(templates.NO_CARD, trusted=False)
    bundled = [folder.resolve() for folder in BUNDLED.values()]
    return read_card(file, trusted=Path(source.location).resolve() in bundled)


def read_card(file: Path, *, trusted: bool) -> Card:
    """Reads a card. A long one is cut, and says so."""
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            text = opened.read(10 * MAX_CARD)
    except OSError:
        return Card(templates.NO_CARD, trusted=False)
    text = _FRONT_MATTER.sub("", text).strip()
    if len(text) > MAX_CARD:
        text = f"{text[:MAX_CARD]}\n\n{templates.CUT_CARD.format(len(text) - MAX_CARD)}"
    if trusted:
        text = _PICTURE.sub(lambda found: _picture(found[1], file.parent / found[2]), text)
    return Card(text or templates.NO_CARD, trusted)


def _picture(caption: str, file: Path) -> str:
    if not file.is_file():  # a Space has no plots
        return f"*{templates.NO_PLOT.format(caption)}*"
    return f"![{caption}](data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()})"


def describe(predictor: StudyPredictor) -> str:
    """A sentence about the checkpoint in use."""
    config = predictor.model.config
    if config.model_type == "external":
        note = templates.EXTERNAL.format(config.positive_class_description)
    else:
        note = templates.PHANTOMS_ONLY if config.trained_on_phantoms else templates.SEE_CARD
    return templates.IN_USE.format(checkpoint=predictor.checkpoint, backbone=config.backbone, note=note)


def facts_html(predictor: StudyPredictor) -> str:
    """Size, backbone, input, weights, data and measured performance of a checkpoint, also at its operating points."""
    config, weights, measured = predictor.model.config, predictor.weights_sha256, predictor.measured_performance
    facts = {"checkpoint": predictor.checkpoint}
    if measured.auroc is not None:
        auroc, interval = measured.auroc
        facts["auroc"] = f"{auroc:.3f}"
        if interval:
            facts["auroc"] = templates.INTERVAL.format(facts["auroc"], *interval)
    if measured.data is not None:
        facts["data"] = ", ".join(measured.data)
    facts |= {
        "backbone": config.backbone or templates.UNKNOWN,
        "parameters": f"{sum(parameter.numel() for parameter in predictor.model.parameters()):,}",
        "input": _input_text(predictor),
        "weights": f"{weights[:12]}…" if weights else templates.UNKNOWN,
    }
    points = [
        (name, float(threshold), measured.get(name, float(threshold), None))
        for name, threshold in sorted(config.operating_points.items(), key=lambda point: point[1])
    ]
    held_out = next((found.held_out for _, _, found in points if found), None)
    named = [(templates.FACTS[key], value) for key, value in facts.items()]
    return render("facts", facts=named, points=points, held_out=held_out)


def _input_text(predictor: StudyPredictor) -> str:
    processor: Any = predictor.processor
    size = getattr(processor, "size", None) or getattr(getattr(processor, "processor", None), "size", None)
    try:
        return f"{int(size['height'])} × {int(size['width'])} px"  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return templates.OWN_SIZE


@dataclass(frozen=True)
class Contender:
    """A compared checkpoint, "A" or "B", with its prediction or the error instead."""

    name: str
    study: StudyPrediction | None
    error: str = ""

    @property
    def shown(self) -> StudyPrediction | None:
        """Its prediction, unless it is withheld."""
        return None if is_withheld(self.study) else self.study

    @property
    def placeholder(self) -> str:
        """Stands in place of a number."""
        return templates.NO_ANSWER if self.study is None else templates.NO_ANSWER_SHOWN


def comparison_html(
    first: Contender,
    second: Contender,
    radiographs: Sequence[Radiograph],
    problems: Sequence[str] = (),
    credit: str | None = None,
) -> str:
    """Both answers, the probabilities of each view with their difference, and each view with both heatmaps.

    `credit` says whose pictures they are.
    """
    both = (first, second)
    sides = [
        {
            "name": one.name,
            "checkpoint": one.study and one.study.checkpoint,
            "answer": answer_html(one.study, radiographs=radiographs) if one.study else error_html(one.error),
            "details": details_html(one.shown, with_views=False) if one.shown else "",
        }
        for one in both
    ]
    shown, known = first.shown or second.shown, first.study or second.study
    values = [one.shown.probability if one.shown else None for one in both]
    rows = [(templates.STUDY, _cells(both, values))] if shown else []
    for index, view in enumerate(shown.views if shown else ()):
        values = [one.shown.views[index].single_view_probability if one.shown else None for one in both]
        rows.append((view.name, _cells(both, values)))
    views = [
        {
            "name": view.name,
            "image": image_url(radiographs[index].pixels, _IMAGE_SIDE),
            "figures": [_figure(one, index) for one in both],
        }
        for index, view in enumerate(known.views if known else ())
    ]
    return render("comparison", problems=problems, sides=sides, rows=rows, views=views, credit=credit)


def _cells(both: Sequence[Contender], values: Sequence[float | None]) -> list[str]:
    """Both probabilities and their difference."""
    pairs = zip(both, values, strict=True)
    cells = [one.placeholder if value is None else probability_text(value) for one, value in pairs]
    before, after = values
    difference = "–" if before is None or after is None else f"{after - before:+.2f}".replace("-", "−")
    return [*cells, "0.00" if difference.endswith("0.00") else difference]


def _figure(one: Contender, index: int) -> dict[str, str | None]:
    empty = {"side": one.name, "heatmap": None, "box": None, "kind": None}
    if one.shown is None:
        return {**empty, "caption": one.placeholder}
    view = one.shown.views[index]
    probability = probability_text(view.single_view_probability)
    caption = templates.VIEW_ANSWER.format(band=" ".join(BANDS[view.band]), probability=probability)
    if one.shown.stands_out(view):
        caption = templates.STANDS_OUT.format(probability)
    if view.heatmap is None:
        return {**empty, "caption": caption + templates.NO_HEATMAP}
    if view.band == "low":
        return {**empty, "caption": caption}
    drawn = {"heatmap": heatmap_url(view.heatmap), "box": box_style(view), "kind": view.band}
    return {**empty, **drawn, "caption": caption}


class ModelsController:
    """What the tab does, apart from its components. Thread-safe."""

    def __init__(self, context: AppContext) -> None:
        self.context = context

    def load(self, key: CheckpointKey) -> tuple[str, str, Card]:
        """Loads a checkpoint. Returns a line about it and its facts, both as HTML, and its card.

        Raises:
            CheckpointError: If it cannot be loaded.
        """
        predictor = self.context.checkpoints.get(*key)
        return note_html(describe(predictor)), facts_html(predictor), find_card(*key[:2])

    def compare(self, files: Sequence[str], body_part: str | None, first: CheckpointKey, second: CheckpointKey) -> str:
        """HTML that compares two checkpoints on one study. Errors are shown there."""
        if not files:
            return error_html(templates.NO_OPEN_STUDY)
        names, radiographs, problems = read_files(self.context.reader, files)
        if not radiographs:
            return answer_html(None, problems)
        part = body_part if body_part in BODY_PARTS else None

        def predict(name: str, key: CheckpointKey) -> Contender:
            try:
                predictor = self.context.checkpoints.get(*key)
                return Contender(name, predictor(radiographs, names=names, body_part=part))
            except (MuraError, ValueError) as error:  # ValueError: a body part that the checkpoint does not allow
                return Contender(name, None, str(error))

        credit = credit_text(find_example(files))
        return comparison_html(predict("A", first), predict("B", second), radiographs, problems, credit)


def build_models_tab(context: AppContext, checkpoint: gr.State, files: Component, body_part: gr.Dropdown) -> list[Any]:
    """Builds the tab.

    Args:
        context: State of the server.
        checkpoint: The checkpoint that the visitor chose, a `CheckpointKey`. The tab sets it.
        files: Component with the paths of the open study's views.
        body_part: The body part given by the visitor, or another text if the model should find it.

    Returns:
        Events that end after a checkpoint was loaded or not. The open study should then be read again.
    """
    controller = ModelsController(context)
    line, facts_now, card_now = controller.load(DEFAULT)
    bundled = list(BUNDLED)
    with gr.Row(elem_id="models"):
        label = templates.MODEL_NAME + templates.MODEL_FOLDER * context.checkpoints.allow_folders
        name = gr.Dropdown(
            bundled, value=None, allow_custom_value=True, label=label, info=templates.MODEL_INFO, scale=2,
            min_width=280, elem_id="model-name",
        )  # fmt: skip
        revision = gr.Textbox(
            label=templates.REVISION, placeholder=templates.MAIN, info=templates.REVISION_INFO, max_lines=1,
            min_width=200,
        )  # fmt: skip
        abnormal_label = gr.Textbox(
            label=templates.ABNORMAL_LABEL, placeholder=templates.LABEL_HINT, info=templates.LABEL_INFO, max_lines=1,
            min_width=200,
        )  # fmt: skip
    load = gr.Button(templates.LOAD, variant="primary", elem_id="model-load")
    state = gr.HTML(line, elem_id="model-state", js_on_load=None, apply_default_css=False)
    facts = gr.HTML(facts_now, elem_id="model-facts", js_on_load=None, apply_default_css=False)
    gr.Markdown(templates.COMPARE_TITLE)
    with gr.Row(elem_id="comparing"):
        first = gr.Dropdown(
            bundled, value=bundled[0], allow_custom_value=True, label=templates.CHECKPOINT_A, min_width=140
        )
        second = gr.Dropdown(
            bundled, value=bundled[-1], allow_custom_value=True, label=templates.CHECKPOINT_B, min_width=140
        )
        compare = gr.Button(templates.COMPARE, min_width=140, elem_id="compare")
    compared = gr.HTML("", elem_id="compared", js_on_load=None, apply_default_css=False)
    with gr.Accordion(templates.CARD, open=False, elem_id="model-card-box"):
        card = gr.Markdown(card_now.shown[0], elem_id="model-card", latex_delimiters=[])
        card_text = gr.HTML(card_now.shown[1], elem_id="model-card-text", js_on_load=None, apply_default_css=False)

    def choose(wanted_name: str | None, wanted_revision: str, label: str, last: CheckpointKey) -> tuple[Any, ...]:
        key = (wanted_name or "", wanted_revision, label)
        try:
            description, table, text = controller.load(key)
        except CheckpointError as error:
            sentence = templates.NOT_LOADED.format(str(error).rstrip("."))
            return last, error_html(sentence), *[gr.skip()] * 5
        names = gr.update(choices=[*bundled, *[key[0]] * (bool(key[0]) and key[0] not in bundled)])
        return key, description, table, *text.shown, names, names

    def compare_both(
        paths: Sequence[str] | None, part: str | None, one: str | None, other: str | None, last: CheckpointKey
    ) -> Iterator[str]:
        def full(wanted: str | None) -> CheckpointKey:  # the one in use may have a revision and a label
            return last if (wanted or "").strip() == last[0].strip() else ((wanted or ""), "", "")

        yield note_html(templates.COMPARING)
        yield controller.compare(paths or [], part, full(one), full(other))

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    outputs = [checkpoint, state, facts, card, card_text, first, second]
    load_events = [
        event(choose, [name, revision, abnormal_label, checkpoint], outputs, **private)
        for event in (load.click, revision.submit, abnormal_label.submit)
    ]
    compare.click(
        compare_both, [files, body_part, first, second, checkpoint], compared, concurrency_id="reading", **private
    )
    components: list[Any] = [files, checkpoint]
    for component in components:  # a comparison is about one study and two checkpoints
        component.change(lambda: "", None, compared, api_visibility="private", show_progress="hidden")
    return load_events
