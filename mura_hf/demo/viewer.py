"""Radiographs and heatmaps as pictures inside the page.

The views of a study as HTML: thumbnails, one view large, and its controls, which `static/viewer.js` brings to life.

Names come from strangers and are escaped.
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
from .result import chance_text, is_withheld

FILM_SIDE = 1600  # pixels on the long side: what zooming in can show
THUMB_SIDE = 160
_HEAT_SIDE = 320
_QUALITY = 93  # of JPEG; what it changes in a film is below one level in the mean


def film_url(pixels: np.ndarray, side: int = FILM_SIDE) -> str:
    """A radiograph, float `[H, W]` in [0, 1], as a data URL of so many pixels on its longer side at most."""
    return _url(_fit(np.rint(pixels * 255).astype(np.uint8), side), "JPEG", quality=_QUALITY)


def heat_url(heatmap: np.ndarray) -> str:
    """A heatmap, float `[H, W]` in [0, 1], as a data URL: inferno colours, clear where there is no attention."""
    return _url(colour_heat(_fit(np.asarray(heatmap, np.float32), _HEAT_SIDE)), "PNG", compress_level=3)


def _fit(values: np.ndarray, side: int) -> np.ndarray:
    scale = min(1.0, side / max(values.shape))
    size = (max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale)))
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA) if scale < 1 else values


def _url(values: np.ndarray, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


_STATES = {True: ("abnormal", "▲ flagged"), False: ("normal", "○ not flagged")}
_KEYS = "With the picture in focus: + and − zoom, 0 fits, arrows move, n and p change the view, i inverts"
_MAP_KEYS = ", h hides the heatmap, b the box"


def viewer_html(study: StudyPrediction, radiographs: Sequence[Radiograph], *, anyway: bool = False) -> str:
    """The views with heatmaps and boxes; the views alone where the answer is withheld.

    Args:
        study: The answer.
        radiographs: Its views, in their order.
        anyway: Whether to show all for a study that is unlike those of training, too.
    """
    withheld = is_withheld(study, anyway)
    first = 0 if withheld else study.leading_view
    pairs = list(zip(study.views, radiographs, strict=True))
    thumbs = "".join(_thumb_html(view, film, place, withheld) for place, (view, film) in enumerate(pairs))
    views = "".join(
        _view_html(view, film, withheld=withheld, leading=len(pairs) > 1 and place == first)
        for place, (view, film) in enumerate(pairs)
    )
    maps = not withheld and any(view.heatmap is not None for view in study.views)
    row = f'<div class="thumbs" role="group" aria-label="Views">{thumbs}</div>' if len(pairs) > 1 else ""
    mark = token_hex(8)
    return (
        f'<mura-viewer data-first="{first}" data-answer="{mark}">{_FILTER}{row}<div class="stage" tabindex="0" '
        f'role="group" aria-roledescription="radiograph" aria-label="The chosen view, large" '
        f'aria-describedby="keys-{mark}">{views}</div>{_tools_html(study, maps)}{_meaning_html(study, maps)}'
        f'<p class="fine" id="keys-{mark}">{_KEYS}{_MAP_KEYS * maps}.</p></mura-viewer>'
    )


_FILTER = (
    '<svg width="0" height="0" aria-hidden="true" style="position:absolute"><filter '
    'color-interpolation-filters="sRGB"><feComponentTransfer><feFuncR type="linear"/><feFuncG type="linear"/>'
    '<feFuncB type="linear"/></feComponentTransfer></filter></svg>'
)


def _thumb_html(view: ViewPrediction, film: Radiograph, place: int, withheld: bool) -> str:
    kind, words = _words(view, withheld)
    chance = "" if withheld else f" {chance_text(view.single_view_probability)}"
    return (
        f'<button type="button" class="thumb" aria-pressed="false"><img src="{film_url(film.pixels, THUMB_SIDE)}" '
        f'alt=""><span class="name">{place + 1}. {escape(view.name)}</span>'
        f'<span class="state {kind}">{words}{chance}</span></button>'
    )


def _words(view: ViewPrediction, withheld: bool) -> tuple[str, str]:
    if not withheld:
        return _STATES[view.flagged]
    return ("uncertain", "⊘ strange") if view.in_distribution is False else ("", "not strange by itself")


def _view_html(view: ViewPrediction, film: Radiograph, *, withheld: bool, leading: bool) -> str:
    name, shape = escape(view.name), view.width / view.height
    layers = f'<img class="film" src="{film_url(film.pixels)}" alt="Radiograph {name}" draggable="false">'
    if not withheld:
        layers += _overlay_html(view.heatmap, name) + _box_html(view)
    kind, words = _words(view, withheld)
    chance = f', P(abnormal) <span class="probability">{chance_text(view.single_view_probability)}</span>'
    size = f"{view.width} × {view.height} px"
    facts = [size] if withheld else [size, f"weight {view.weight:.2f}"]
    if leading and not withheld:
        facts.insert(0, "<b>spoke most for abnormal</b>")
    return (
        f'<figure class="view"><div class="frame"><div class="stack" style="--shape:{shape:.5f}">{layers}</div></div>'
        f'<figcaption><span class="name">{name}</span><span><span class="state {kind}">{words}</span>'
        f'{"" if withheld else chance}</span><span class="fine">{", ".join(facts)}</span></figcaption></figure>'
    )


def _overlay_html(heatmap: np.ndarray | None, name: str) -> str:
    if heatmap is None:
        return ""
    picture = f'<img class="heat" src="{heat_url(heatmap)}" alt="Model attention over {name}" draggable="false">'
    return f'{picture}<div class="line"></div>'


def _box_html(view: ViewPrediction) -> str:
    if view.box is None:
        return ""
    left, top = 100 * view.box.x0 / view.width, 100 * view.box.y0 / view.height
    width, height = 100 * (view.box.x1 - view.box.x0) / view.width, 100 * (view.box.y1 - view.box.y0) / view.height
    place = f"left:{left:.2f}%;top:{top:.2f}%;width:{width:.2f}%;height:{height:.2f}%"
    return f'<div class="box" style="{place}" title="Strongest model attention"></div>'


def _tools_html(study: StudyPrediction, maps: bool) -> str:
    heat = ""
    if maps:
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


def _meaning_html(study: StudyPrediction, maps: bool) -> str:
    if not maps:
        return ""
    method = escape((study.heatmap_method or "").replace("_", " "))
    return (
        f'<p class="fine">The heatmap ({method}) shows the <b>model’s attention</b> for abnormal against normal, not '
        "a lesion. Each is scaled to its own maximum, so a view that is not flagged has colours too. A box marks the "
        "strongest attention of a flagged view.</p>"
    )
