import numpy as np
import pytest
from PIL import Image
from show_boxes import draw_boxes

from mura_hf import DatasetError, load_mura


def test_draws_the_boxes_that_there_are(phantom_tree, tmp_path):
    rows = load_mura(phantom_tree)["train"]
    draw_boxes(rows, tmp_path / "sheet.png", columns=3, lines=2, side=100)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 118, 300, 3)
    orange = (sheet == (255, 176, 0)).all(-1)
    assert all(orange[top : top + 118, left : left + 100].sum() > 20 for top in (0, 118) for left in (0, 100, 200))
    draw_boxes(rows, tmp_path / "again.png", columns=3, lines=2, side=100)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()


def test_says_where_there_are_none(phantom_tree, tmp_path):
    rows = load_mura(phantom_tree)["train"]
    with pytest.raises(DatasetError, match="no picture has a box"):
        draw_boxes(rows.remove_columns("boxes"), tmp_path / "sheet.png")
    with pytest.raises(DatasetError, match="cannot be written"):
        draw_boxes(rows, tmp_path / "nowhere" / "sheet.png")
