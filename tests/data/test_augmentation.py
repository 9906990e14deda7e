import cv2
import numpy as np
import pytest

from mura_hf.data import Augmentation

PLANE = np.random.default_rng(0).integers(1, 256, (90, 70), dtype=np.uint8)
STILL = {"flip": 0.0, "rotation": 0.0, "scale": 0.0}


def _draws(augmentation, n=60):
    return [augmentation.draw(0, 0, index) for index in range(n)]


def test_zero_ranges_change_nothing():
    change = Augmentation(**STILL).draw(0, 0, 0)
    np.testing.assert_array_equal(change.tone(change.place(PLANE)), PLANE)


def test_a_flip_is_a_flip():
    change = Augmentation(**{**STILL, "flip": 1.0}).draw(0, 0, 0)
    np.testing.assert_array_equal(change.place(PLANE), PLANE[:, ::-1])


def test_draws_stay_in_their_ranges_and_use_them():
    ranges = Augmentation(flip=0.3, rotation=20, scale=0.2, shift=0.1, brightness=0.1, contrast=0.3)
    draws = _draws(ranges, 400)
    for values, most in (
        ([draw.degrees for draw in draws], 20),
        ([draw.scale - 1 for draw in draws], 0.2),
        ([draw.shift[0] for draw in draws], 0.1),
        ([draw.offset / 255 for draw in draws], 0.1),
        ([draw.gain - 1 for draw in draws], 0.3),
    ):
        assert 0.9 * most < max(values) <= most
        assert -most <= min(values) < -0.9 * most
    assert np.mean([draw.flipped for draw in draws]) == pytest.approx(0.3, abs=0.08)


def test_switching_one_thing_on_moves_no_other():
    few, more = Augmentation(), Augmentation(random_crop=True, zoom_in=2.0, inversion=1.0)
    for one, other in zip(_draws(few), _draws(more), strict=True):
        assert (one.flipped, one.degrees, one.scale) == (other.flipped, other.degrees, other.scale)


def test_a_random_crop_reaches_every_place():
    places = set()
    for change in _draws(Augmentation(**STILL, random_crop=True), 400):
        piece = change.place(PLANE, (84, 66))
        places |= {
            (top, left)
            for top in range(7)
            for left in range(5)
            if np.array_equal(PLANE[top : top + 84, left : left + 66], piece)
        }
    assert places == {(top, left) for top in range(7) for left in range(5)}


def test_images_and_masks_move_together():
    mask = np.zeros((90, 70), np.uint8)
    mask[40:60, 20:40] = 255
    for change in _draws(Augmentation(random_crop=True)):
        moved, region = change.place(mask, (84, 66)) > 127, change.place(mask, (84, 66), cv2.INTER_NEAREST) > 127
        assert (moved & region).sum() >= 0.85 * (moved | region).sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, "flip is 1.5"),
        ({"rotation": float("nan")}, "rotation is nan"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
