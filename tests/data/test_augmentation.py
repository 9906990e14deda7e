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
    np.testing.assert_array_equal(change.erase(change.tone(change.place(PLANE))), PLANE)


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
    few, more = Augmentation(), Augmentation(resized_crop=0.5, erasing=1.0)
    for one, other in zip(_draws(few), _draws(more), strict=True):
        assert (one.flipped, one.degrees, one.scale) == (other.flipped, other.degrees, other.scale)


class TestCrops:
    def test_a_random_crop_reaches_every_place(self):
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

    def test_a_resized_crop_shows_a_piece_of_the_asked_size(self):
        ramp = np.tile(np.linspace(0, 255, 200).astype(np.uint8), (200, 1))
        for change in _draws(Augmentation(**STILL, resized_crop=0.25, resized_crop_aspect=1.0)):
            shown = change.place(ramp, (100, 100))
            width = (float(shown[:, -1].mean()) - float(shown[:, 0].mean())) / 255
            assert shown.shape == (100, 100)
            assert width == pytest.approx(np.sqrt(change.window[0]), abs=0.03)
            assert 0.25 <= change.window[0] <= 1

    def test_the_whole_picture_resized_is_the_picture_resized(self):
        change = Augmentation(**STILL, resized_crop=0.999999, resized_crop_aspect=1.0).draw(0, 0, 0)
        square = PLANE[:70]
        assert np.abs(change.place(square, square.shape).astype(int) - square).mean() < 4

    def test_pictures_and_masks_move_together(self):
        mask = np.zeros((90, 70), np.uint8)
        mask[40:60, 20:40] = 255
        for change in _draws(Augmentation(resized_crop=0.4)):
            moved, region = change.place(mask, (64, 64)) > 127, change.place(mask, (64, 64), cv2.INTER_NEAREST) > 127
            assert (moved & region).sum() >= 0.85 * (moved | region).sum()


class TestHoles:
    def test_as_many_and_as_large_as_asked_for(self):
        draws = _draws(Augmentation(**STILL, erasing=0.5, erasing_holes=3, erasing_side=0.3), 400)
        counts = [len(draw.holes) for draw in draws]
        assert set(counts) == {0, 1, 2, 3}
        assert np.mean(np.array(counts) > 0) == pytest.approx(0.5, abs=0.08)
        assert max(side for draw in draws for *_, side in draw.holes) <= 0.3

    def test_are_black_and_the_rest_stays(self):
        change = Augmentation(**STILL, erasing=1.0, erasing_side=0.3).draw(0, 0, 3)
        erased = change.erase(PLANE)
        assert (erased == 0).any()
        np.testing.assert_array_equal(erased[erased > 0], PLANE[erased > 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, "flip is 1.5"),
        ({"resized_crop": 0.0}, "resized_crop is 0.0"),
        ({"erasing_holes": 0}, "erasing_holes is 0"),
        ({"rotation": float("nan")}, "rotation is nan"),
        ({"random_crop": True, "resized_crop": 0.5}, "exclude each other"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
