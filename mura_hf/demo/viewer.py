"""HTML of the image viewer: thumbnails, one view large with heatmap and box, and the controls.

`templates/viewer.html` is its structure, and `static/viewer.js` brings it to life.
"""

import base64
import io
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..explain import colour_heat, find_regions
from ..inference import StudyPrediction, ViewPrediction
from ..radiographs import Radiograph
from . import templates
from .result import is_withheld

IMAGE_SIDE = 1600  # pixels on the long side, enough to zoom in
THUMB_SIDE = 160
_HEAT_SIDE = 320
_JPEG_QUALITY = 93  # changes less than one gray level on average
_FAINTEST = 1 / 255  # heat that has a colour of its own


def image_url(pixels: np.ndarray, side: int = IMAGE_SIDE, quality: int = _JPEG_QUALITY) -> str:
    """A radiograph, float `[H, W]` in [0, 1], as a data URL with at most `side` pixels on its longer side."""
    return _data_url(np.rint(_shrink(pixels, side) * 255).clip(0, 255).astype(np.uint8), "JPEG", quality=quality)


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


def box_style(view: ViewPrediction) -> str | None:
    """CSS that places the box of a view; None if there is no heat to see."""
    if view.heatmap is None or view.heatmap.max() < _FAINTEST:
        return None
    regions = view.regions or find_regions(view.heatmap)
    if not regions:
        return None
    (x0, y0, x1, y1), across, down = regions[0].box, 100 / view.width, 100 / view.height
    return (
        f"left:{x0 * across:.2f}%;top:{y0 * down:.2f}%;width:{(x1 - x0) * across:.2f}%;height:{(y1 - y0) * down:.2f}%"
    )


def viewer_html(
    study: StudyPrediction, radiographs: Sequence[Radiograph], *, show_anyway: bool = False, credit: str | None = None
) -> str:
    """The views with heatmaps and boxes, or the radiographs alone if the answer is withheld.

    Heatmap and box of a view whose band is low are hidden until the visitor asks for them. `credit` says whose
    pictures they are.
    """
    withheld = is_withheld(study, show_anyway)
    explained = not withheld and any(view.heatmap is not None for view in study.views)
    views = [_view_values(study, view, film, withheld) for view, film in zip(study.views, radiographs, strict=True)]
    return templates.render(
        "viewer",
        views=views,
        withheld=withheld,
        first=0 if withheld else study.leading_view,
        method=(study.heatmap_method or templates.UNKNOWN_METHOD) if explained else None,
        credit=credit,
        token=token_hex(8),  # tells the script that this is a new answer
    )


def _view_values(
    study: StudyPrediction, view: ViewPrediction, radiograph: Radiograph, withheld: bool
) -> dict[str, Any]:
    values: dict[str, Any] = {"heatmap": None, "box": None, "chance": None, "name": view.name}
    values |= {"width": view.width, "height": view.height}
    values["image"], values["thumbnail"] = (image_url(radiograph.pixels, side) for side in (IMAGE_SIDE, THUMB_SIDE))
    unusual = view.in_distribution is False
    values |= {"kind": "plain", "state": templates.USUAL_VIEW}
    if unusual:
        values |= {"kind": "uncertain", "state": templates.UNUSUAL_VIEW}
    values["tone"] = values["kind"]
    if withheld:
        return values
    if not unusual:
        is_doubted = study.in_distribution is False and view.band != "low"  # the study is, because of another view
        values["kind"] = values["tone"] = "uncertain" if is_doubted else view.band
        values["state"] = " ".join(templates.BANDS[view.band])
    low, high = study.band_limits
    chance = view.single_view_probability
    own = ("low", "uncertain", "suspected")[(chance > low) + (chance > high)]
    if not unusual and study.stands_out(view):
        values |= {"tone": "plain", "state": templates.STANDS_OUT.format(templates.probability_text(chance))}
    elif not unusual and view.band == own:  # else it has the band of the study, which this number would contradict
        values["chance"] = templates.probability_text(chance)
    if view.heatmap is not None and view.heatmap.max() >= _FAINTEST:
        values["heatmap"], values["box"] = heatmap_url(view.heatmap), box_style(view)
    return values
