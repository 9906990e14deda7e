import base64
import io

import numpy as np
from PIL import Image

from mura_hf.demo.viewer import FILM_SIDE, THUMB_SIDE, film_url, heat_url
from mura_hf.phantoms import render_phantom


def _decode(url, kind):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix(f"data:image/{kind};base64,")))))


def test_a_film_is_shown_as_it_is():
    pixels = render_phantom(3, body_part="wrist", finding=None).pixels.astype(np.float32) / 255
    shown = _decode(film_url(pixels), "jpeg").astype(float)
    assert shown.shape == pixels.shape
    assert np.abs(shown - 255 * pixels).mean() < 1  # gray levels


def test_large_films_are_made_smaller():
    large = np.zeros((3000, 1500), np.float32)
    assert _decode(film_url(large), "jpeg").shape == (FILM_SIDE, FILM_SIDE // 2)
    assert max(_decode(film_url(large, THUMB_SIDE), "jpeg").shape) == THUMB_SIDE


def test_a_heatmap_is_clear_where_there_is_no_attention():
    heat = _decode(heat_url(np.linspace(0, 1, 120 * 80, dtype=np.float32).reshape(120, 80)), "png")
    assert heat.shape == (120, 80, 4)
    assert heat[0, 0, 3] == 0
    assert heat[-1, -1, 3] == 255
