import numpy as np
import pytest
from PIL import Image
from show_preprocessing import draw_preprocessing

FRAMED = np.pad(np.random.default_rng(0).integers(60, 200, (80, 50), dtype=np.uint8), 20)
AMBER = np.array([255, 176, 0])


def _draw(path, **pictures):
    draw_preprocessing(pictures, path, size=48)
    with Image.open(path) as sheet:
        return np.asarray(sheet.convert("RGB")).astype(int)


def test_every_picture_has_a_row_and_its_field_a_frame(tmp_path):
    one = _draw(tmp_path / "one.png", framed=FRAMED)
    two = _draw(tmp_path / "two.png", framed=FRAMED, whole=FRAMED[20:-20, 20:-20])
    assert one.shape[1] == two.shape[1] > 10 * 48
    assert two.shape[0] > 1.5 * one.shape[0]
    # Border crop and centre crop, the fourth and fifth of ten columns, are the only ones with a frame.
    columns = np.flatnonzero((np.abs(one - AMBER).sum(-1) < 60).any(0)) / one.shape[1]
    assert 0.3 < columns.min() < 0.4
    assert 0.4 < columns.max() < 0.52


def test_draws_no_empty_sheet(tmp_path):
    with pytest.raises(ValueError, match="no picture"):
        draw_preprocessing({}, tmp_path / "none.png")
