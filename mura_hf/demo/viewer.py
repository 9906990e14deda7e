"""HTML of the image viewer: thumbnails, one view large with heatmap and box, and the controls.

`static/viewer.js` brings it to life. File names come from strangers and are escaped.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from secrets import token_hex

import cv2
import numpy as np
from PIL import Image

from ..explain import colour_heat
from ..inference import StudyPrediction, ViewPrediction
from ..radiographs import Radiograph
from .result import is_withheld, probability_text

IMAGE_SIDE = 1600  # pixels on the long side, enough to zoom in
THUMB_SIDE = 160
_HEAT_SIDE = 320
_JPEG_QUALITY = 93  # changes less than one gray level on average

_STATES = {True: ("abnormal", "▲ flagged"), False: ("normal", "○ not flagged")}
_KEYS = "Keys when the picture has the focus: + and − zoom, 0 fits, arrows move, n and p change the view, i inverts"
_FILTER = (
    '<svg width="0" height="0" aria-hidden="true" style="position:absolute"><filter '
    'color-interpolation-filters="sRGB"><feComponentTransfer><feFuncR type="linear"/><feFuncG type="linear"/>'
    '<feFuncB type="linear"/></feComponentTransfer></filter></svg>'
)


def image_url(pixels: np.ndarray, side: int = IMAGE_SIDE) -> str:
    """A radiograph, float `[H, W]` in [0, 1], as a data URL with at most `side` pixels on its longer side."""
    return _data_url(_shrink(np.rint(pixels * 255).astype(np.uint8), side), "JPEG", quality=_JPEG_QUALITY)


def heatmap_url(heatmap: np.ndarray) -> str:
    """A heatmap, float `[H, W]` in [0, 1], as a data URL: inferno colours, transparent where it is 0."""
    return _data_url(colour_heat(_shrink(np.asarray(heatmap, np.float32), _HEAT_SIDE)), "PNG", compress_level=3)


def _shrink(values: np.ndarray, side: int) -> np.ndarray:
    scale = min(1.0, side / max(values.shape))
    size = (max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale)))
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA) if scale < 1 else values


def _data_url(values: np.ndarray, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def viewer_html(study: StudyPrediction, radiographs: Sequence[Radiograph], *, show_anyway: bool = False) -> str:
    """The views with heatmaps and boxes, or the radiographs alone if the answer is withheld.

    Args:
        study: The prediction.
        radiographs: Its views in the same order.
        show_anyway: Whether to show everything even if the study is out of distribution.
    """
    withheld = is_withheld(study, show_anyway)
    first = 0 if withheld else study.leading_view
    pairs = list(zip(study.views, radiographs, strict=True))
    thumbs = "".join(_thumb_html(view, film, number, withheld) for number, (view, film) in enumerate(pairs, 1))
    views = "".join(
        _view_html(view, film, withheld=withheld, leading=len(pairs) > 1 and index == first)
        for index, (view, film) in enumerate(pairs)
    )
    heatmaps = not withheld and any(view.heatmap is not None for view in study.views)
    row = f'<div class="thumbs" role="group" aria-label="Views">{thumbs}</div>' if len(pairs) > 1 else ""
    keys = _KEYS + ", h hides the heatmap, b the box" * heatmaps
    token = token_hex(8)
    return (
        f'<mura-viewer data-first="{first}" data-answer="{token}">{_FILTER}{row}<div class="stage" tabindex="0" '
        f'role="group" aria-roledescription="radiograph" aria-label="The chosen view, large" '
        f'aria-describedby="keys-{token}">{views}</div>{_tools_html(study, heatmaps)}{_meaning_html(study, heatmaps)}'
        f'<p class="fine" id="keys-{token}">{keys}.</p></mura-viewer>'
    )


def _thumb_html(view: ViewPrediction, film: Radiograph, number: int, withheld: bool) -> str:
    kind, state = _state(view, withheld)
    probability = "" if withheld else f" {probability_text(view.single_view_probability)}"
    return (
        f'<button type="button" class="thumb" aria-pressed="false"><img src="{image_url(film.pixels, THUMB_SIDE)}" '
        f'alt=""><span class="name">{number}. {escape(view.name)}</span>'
        f'<span class="state {kind}">{state}{probability}</span></button>'
    )


def _state(view: ViewPrediction, withheld: bool) -> tuple[str, str]:
    """CSS class and text."""
    if not withheld:
        return _STATES[view.flagged]
    return ("uncertain", "⊘ unusual") if view.in_distribution is False else ("", "not unusual by itself")


def _view_html(view: ViewPrediction, film: Radiograph, *, withheld: bool, leading: bool) -> str:
    name = escape(view.name)
    layers = f'<img class="film" src="{image_url(film.pixels)}" alt="Radiograph {name}" draggable="false">'
    kind, state = _state(view, withheld)
    probability, facts = "", [f"{view.width} × {view.height} px"]
    if not withheld:
        layers += _overlay_html(view, name)
        probability = (
            f', P(abnormal) <span class="probability">{probability_text(view.single_view_probability)}</span>'
        )
        facts = ["<b>contributed most</b>"] * leading + facts + [f"weight {view.weight:.2f}"]
    return (
        f'<figure class="view"><div class="frame"><div class="stack" style="--shape:{view.width / view.height:.5f}">'
        f'{layers}</div></div><figcaption><span class="name">{name}</span><span><span class="state {kind}">{state}'
        f'</span>{probability}</span><span class="fine">{", ".join(facts)}</span></figcaption></figure>'
    )


def _overlay_html(view: ViewPrediction, name: str) -> str:
    html = ""
    if view.heatmap is not None:
        url = heatmap_url(view.heatmap)
        html += f'<img class="heat" src="{url}" alt="Model attention over {name}" draggable="false">'
        html += '<div class="line"></div>'
    if view.box is not None:
        left, top = 100 * view.box.x0 / view.width, 100 * view.box.y0 / view.height
        width = 100 * (view.box.x1 - view.box.x0) / view.width
        height = 100 * (view.box.y1 - view.box.y0) / view.height
        style = f"left:{left:.2f}%;top:{top:.2f}%;width:{width:.2f}%;height:{height:.2f}%"
        html += f'<div class="box" style="{style}" title="Strongest model attention"></div>'
    return html


def _tools_html(study: StudyPrediction, heatmaps: bool) -> str:
    heat = ""
    if heatmaps:
        box = any(view.box is not None for view in study.views)
        heat = (
            '<fieldset><legend>Heatmap</legend><label class="wide">Original <span class="grow"><input type="range" '
            'data-set="split" min="0" max="100" value="0" aria-label="Original against heatmap: share of the picture '
            'that shows the original"></span> <output data-of="split"></output></label>'
            '<label class="wide">Opacity <span class="grow"><input type="range" data-set="opacity" min="0" max="100" '
            'step="5" value="50" aria-label="Heatmap opacity"></span> <output data-of="opacity"></output></label>'
            + '<label><input type="checkbox" data-set="box" checked> Box</label>' * box
            + '<span class="legend">little <i aria-hidden="true"></i> most model attention</span></fieldset>'
        )
    return (
        f'<div class="tools">{heat}<fieldset><legend>Picture</legend>'
        '<label class="wide">Window level <span class="grow"><input type="range" data-set="level" min="0" max="100" '
        'value="50"></span> <output data-of="level"></output></label>'
        '<label class="wide">Window width <span class="grow"><input type="range" data-set="width" min="5" max="200" '
        'step="5" value="100"></span> <output data-of="width"></output></label>'
        '<label><input type="checkbox" data-set="invert"> Invert</label>'
        '<span class="zoom" role="group" aria-label="Zoom"><button type="button" data-do="out" aria-label="Zoom out">−'
        '</button><output data-of="zoom"></output><button type="button" data-do="in" aria-label="Zoom in">+</button>'
        '<button type="button" data-do="fit">Fit</button></span>'
        '<button type="button" data-do="reset">Reset</button></fieldset></div>'
    )


def _meaning_html(study: StudyPrediction, heatmaps: bool) -> str:
    if not heatmaps:
        return ""
    method = escape((study.heatmap_method or "").replace("_", " "))
    return (
        f'<p class="fine">The heatmap ({method}) shows the <b>model attention</b> for abnormal against normal, not '
        "a lesion. Each heatmap is scaled to its own maximum, so a view that is not flagged has bright colours too. A "
        "box marks the strongest attention in a flagged view.</p>"
    )
