"""PDF report of one study, made with ReportLab (extra `demo`)."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from ..common import require_extra
from ..explain import draw_overlay, find_regions
from ..radiographs import Radiograph
from .measured_performance import OVERALL, OperatingPointPerformance
from .prediction import (
    DISCLAIMER,
    OOD_WARNING,
    OPERATING_POINTS,
    StudyPrediction,
    ViewPrediction,
    format_probability,
)

require_extra("demo", "reportlab")

from reportlab.lib.colors import HexColor  # noqa: E402
from reportlab.lib.pagesizes import A4  # noqa: E402
from reportlab.lib.styles import ParagraphStyle  # noqa: E402
from reportlab.lib.utils import ImageReader  # noqa: E402
from reportlab.pdfbase import pdfmetrics  # noqa: E402
from reportlab.pdfbase.ttfonts import TTFont  # noqa: E402
from reportlab.pdfgen.canvas import Canvas  # noqa: E402
from reportlab.platypus import KeepInFrame, Paragraph  # noqa: E402

_MARGIN, _GAP, _BETWEEN = 42.0, 10.0, 4.0  # points
_SIDE = 900  # largest side of an embedded view in pixels
_FONT = "mura_hf"
_VIEW_STATES = {"suspected": "flagged", "uncertain": "uncertain", "low": "not flagged"}


@dataclass(frozen=True)
class ReportContext:
    """Content of a report beside the prediction."""

    made: datetime  # time of the report
    weights_sha256: str | None = None  # SHA-256 of the weights; None if unknown
    # Measured performance of the operating point; None if unknown
    performance: OperatingPointPerformance | None = None
    prevalence: float = 0.1  # assumed share of abnormal studies, in (0, 1)
    left_out: Sequence[str] = ()  # sentences about files that could not be read
    withheld: bool = False  # whether to withhold the prediction, because the study is out of distribution


def report_pdf(study: StudyPrediction, radiographs: Sequence[Radiograph], context: ReportContext) -> bytes:
    """Makes a PDF of one A4 page: prediction, measured performance, views, and the checkpoint.

    Beside each view stands its overlay, unless its band is low.

    Args:
        study: The prediction.
        radiographs: Its views, in the same order.
        context: Content beside the prediction.

    Raises:
        ValueError: If the number of views differs from that of the prediction.
    """
    if len(radiographs) != len(study.views):
        raise ValueError(f"the prediction has {len(study.views)} views, but {len(radiographs)} were given")
    _register_fonts()
    buffer = io.BytesIO()
    page = Canvas(buffer, pagesize=A4, pageCompression=1, lang="en")
    page.setTitle("mura_hf: radiographic study")
    page.setSubject(DISCLAIMER)
    width, height = A4[0] - 2 * _MARGIN, A4[1] - 2 * _MARGIN
    top = A4[1] - _MARGIN
    foot = _draw(page, _foot(study, context), _MARGIN, _MARGIN + 90, width, 90, bottom=True)
    used = _draw(page, _head(study, context), _MARGIN, top, width, height * 0.52)
    _draw_views(page, study, radiographs, context, (_MARGIN, foot + _GAP, width, top - used - 2 * _GAP - foot))
    page.showPage()
    page.save()
    return buffer.getvalue()


@cache
def _register_fonts() -> None:
    """Registers DejaVu, which covers most languages of file names. It comes with matplotlib, which Captum requires."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pdfmetrics.registerFont(TTFont(_FONT, folder / "DejaVuSans.ttf"))
    pdfmetrics.registerFont(TTFont(f"{_FONT}-bold", folder / "DejaVuSans-Bold.ttf"))
    pdfmetrics.registerFontFamily(_FONT, normal=_FONT, bold=f"{_FONT}-bold", italic=_FONT, boldItalic=f"{_FONT}-bold")


def _paragraph(text: str, size: float = 9, colour: str = "#1c2733", after: float = 3) -> Any:
    style = ParagraphStyle(
        f"mura-{size}", fontName=_FONT, fontSize=size, leading=size * 1.35, textColor=HexColor(colour),
        spaceAfter=after, splitLongWords=1,
    )  # fmt: skip
    return Paragraph(text, style)


def _draw(
    page: Canvas, story: list[Any], x: float, y: float, width: float, height: float, *, bottom: bool = False
) -> float:
    """Draws paragraphs into a rectangle with the upper edge `y`, shrunk if they do not fit.

    Returns the used height; or with `bottom=True`, which aligns them at the lower edge, the y of their upper edge.
    """
    frame = KeepInFrame(width, height, story, mode="shrink")
    _, used = frame.wrapOn(page, width, height)
    if bottom:
        frame.drawOn(page, x, y - height)
        return y - height + used
    frame.drawOn(page, x, y - used)
    return used


def _head(study: StudyPrediction, context: ReportContext) -> list[Any]:
    story = [_paragraph("mura_hf: radiographic study", 8, "#5b6b79")]
    if context.withheld:
        story += [
            _paragraph("<b>Not answered</b>", 17, after=6),
            _paragraph(
                "This does not look like the radiographs that the checkpoint was trained on, so its prediction may be "
                "meaningless and is not shown."
            ),
        ]
    else:
        part = "not clear to the model" if study.region else "not predicted by this checkpoint"
        if study.region and study.region_words and study.body_part is None:
            chance = study.region_probabilities[study.region]
            part = f"probably {study.region_words} (probability {format_probability(chance)})"
        elif study.body_part is not None:
            how = "given"
            if not study.body_part_given:
                chance = study.body_part_probabilities[study.body_part]
                how = f"predicted, probability {format_probability(chance)}"
            part = f"{study.body_part} ({how})"
        name = study.operating_point
        verdict = f"<b>{study.verdict}</b>, P(abnormal) {format_probability(study.probability)}"
        positive = study.positive_class_description or "what the labels of its training data called abnormal"
        story += [
            _paragraph(verdict, 17, after=6),
            _paragraph(
                f"Operating point <b>{escape(OPERATING_POINTS.get(name, name))}</b>: flagged strictly above "
                f"{study.threshold:g}; this study is "
                f"<b>{'flagged' if study.label == 'abnormal' else 'not flagged'}</b>. "
                f"Body part: <b>{escape(part)}</b>. Abnormal means {escape(positive)}."
            ),
            _paragraph(" ".join([_performance(context), *map(str, filter(None, [study.band_performance]))])),
        ]
    story += [_paragraph(escape(study.scope_note))] if study.scope_note else []
    story += [
        _paragraph(f"• {escape(warning)}", 8, "#7a4b00", 2)
        for warning in study.warnings
        if not (context.withheld and warning == OOD_WARNING)
    ]
    return story + [_paragraph(f"• Left out: {escape(text)}", 8, "#a02318", 2) for text in context.left_out]


def _performance(context: ReportContext) -> str:
    found = context.performance
    if found is None:
        return "The performance at this operating point was not measured."
    where = "studies of all body parts" if found.group == OVERALL else f"studies of the {found.group}"
    positive, negative = found.predictive_values(context.prevalence)
    return (
        f"Measured on {escape(found.held_out)}, {escape(where)}: "
        f"<b>{found.n_flagged_abnormal} of {found.n_abnormal}</b> abnormal studies flagged (sensitivity "
        f"{_format_rate(found.sensitivity)}), <b>{found.n_flagged_normal} of {found.n_normal}</b> normal ones flagged "
        f"(specificity {_format_rate(found.specificity)}). "
        f"Where {context.prevalence:.0%} of the studies are abnormal: positive predictive value "
        f"{_format_rate(positive)}, negative {_format_rate(negative)}."
    )


def _format_rate(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _foot(study: StudyPrediction, context: ReportContext) -> list[Any]:
    weights = f", weights SHA-256 {context.weights_sha256}" if context.weights_sha256 else ""
    shown = study.heatmap_method and any(view.band != "low" for view in study.views) and not context.withheld
    method = f" Heatmaps: {study.heatmap_method.replace('_', ' ')}." if shown else ""  # type: ignore[union-attr]
    return [
        _paragraph(f"Checkpoint {escape(study.checkpoint)}{weights}.{method}", 7, "#5b6b79", 2),
        _paragraph(f"Made {context.made:%Y-%m-%d %H:%M %Z}".rstrip() + ".", 7, "#5b6b79", 2),
        _paragraph(f"<b>{escape(DISCLAIMER)}</b>", 8),
    ]


def _draw_views(
    page: Canvas,
    study: StudyPrediction,
    radiographs: Sequence[Radiograph],
    context: ReportContext,
    space: tuple[float, float, float, float],
) -> None:
    """Draws a grid of views, each beside its overlay and above its caption; `space` is x, y, width, height."""
    x, y, width, height = space
    pictures = []
    for view, radiograph in zip(study.views, radiographs, strict=True):
        pictures.append([_fit(radiograph.to_uint8())])
        if view.heatmap is not None and not context.withheld and view.band != "low":
            regions = view.regions or find_regions(view.heatmap)
            pictures[-1].append(_fit(draw_overlay(radiograph.pixels, view.heatmap, regions[:1])))
    columns = _columns(pictures, width, height)
    cell_width, cell_height = width / columns, height / -(-len(pictures) // columns)
    for number, (view, side_by_side) in enumerate(zip(study.views, pictures, strict=True)):
        left = x + number % columns * cell_width
        top = y + height - number // columns * cell_height
        scale = _scale(side_by_side, cell_width, cell_height)
        for picture in side_by_side:
            bottom = top - picture.height * scale
            page.drawImage(ImageReader(picture), left, bottom, picture.width * scale, picture.height * scale)
            left += picture.width * scale + _BETWEEN
        left = x + number % columns * cell_width
        below = top - side_by_side[0].height * scale - 2
        _draw(page, [_caption(study, view, context.withheld)], left, below, cell_width - _GAP, 22)


def _scale(pictures: Sequence[Image.Image], width: float, height: float) -> float:
    """Scale at which the pictures of a view fit side by side above a caption."""
    wide = sum(picture.width for picture in pictures)
    return max(1e-3, min((width - _GAP - _BETWEEN * (len(pictures) - 1)) / wide, (height - 28) / pictures[0].height))


def _columns(pictures: Sequence[Sequence[Image.Image]], width: float, height: float) -> int:
    """Number of columns with the largest scale."""
    count = len(pictures)
    return max(
        range(1, count + 1),
        key=lambda n: min(_scale(some, width / n, height / -(-count // n)) for some in pictures),
    )


def _caption(study: StudyPrediction, view: ViewPrediction, withheld: bool) -> Any:
    state = "" if study.stands_out(view) else f" {_VIEW_STATES[view.band]},"  # it has the band of the study
    chance = format_probability(view.single_view_probability)
    prediction = f": P(abnormal) {chance} by itself,{state} weight {view.weight:.2f}"
    text = f"<b>{escape(view.name)}</b>{'' if withheld else prediction}, {view.width} × {view.height} px"
    return _paragraph(text, 7, after=0)


def _fit(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    return picture
