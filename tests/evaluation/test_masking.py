import numpy as np
import pytest

from mura_hf.evaluation.masking import corner_boxes, fill_boxes, marker_boxes, move_boxes
from mura_hf.phantoms import render_phantom


def _covered(boxes, shape):
    covered = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] = True
    return covered


def test_most_markers_of_phantoms_are_detected_and_bones_are_not():
    found, wrong = [], 0
    for seed in range(16):
        without, with_it = (
            render_phantom(seed, body_part="wrist", view=seed % 2, size=384, marker=shown, jewel=False).pixels
            for shown in (False, True)
        )
        letter = np.abs(with_it.astype(int) - without) > 25
        if letter.sum() < 10:
            continue  # outside the collimator
        covered = _covered(marker_boxes(with_it / np.float32(255)), letter.shape)
        found.append((covered & letter).sum() / letter.sum() > 0.8)
        wrong += bool(marker_boxes(without / np.float32(255)))
    assert np.mean(found) >= 0.6
    assert wrong <= 2


def test_a_bright_square_is_a_marker_near_the_border_only():
    film = np.full((300, 200), 0.1, np.float32)
    assert marker_boxes(film) == []
    film[20:32, 170:180] = 0.95
    (box,) = marker_boxes(film)
    assert box[0] < 170 < 180 < box[2] <= 200
    assert box[1] < 20 < 32 < box[3]
    film[20:32, 170:180] = 0.1
    film[150:162, 95:105] = 0.95  # in the middle: metal, perhaps
    assert marker_boxes(film) == []


def test_filled_boxes_look_like_their_surroundings():
    film = np.tile(np.linspace(0.2, 0.6, 240, dtype=np.float32), (200, 1))
    marked = film.copy()
    marked[30:50, 200:220] = 1.0
    box = (195, 25, 225, 55)
    filled = fill_boxes(marked, [box])
    outside = ~_covered([box], film.shape)
    np.testing.assert_array_equal(filled[outside], marked[outside])
    assert np.abs(filled[30:50, 200:220] - film[30:50, 200:220]).max() < 0.1
    assert filled.dtype == np.float32


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_moved_boxes_keep_size_and_distance_from_the_border(shape):
    film = np.zeros(shape, np.float32)
    corners = corner_boxes(film)
    assert _covered(corners, shape).mean() == pytest.approx(4 * 0.15**2, rel=0.1)
    moved = move_boxes(corners, shape, np.random.default_rng(0))
    for (x0, y0, x1, y1), (a, b, c, d) in zip(corners, moved, strict=True):
        assert (x1 - x0, y1 - y0) == (c - a, d - b)
        assert min(a, b, shape[1] - c, shape[0] - d) == 0
    assert not (_covered(corners, shape) & _covered(moved, shape)).any()
    inner = [(20, 30, 40, 60)]
    (place,) = move_boxes(inner, shape, np.random.default_rng(1))
    assert min(place[0], place[1], shape[1] - place[2], shape[0] - place[3]) == 20
