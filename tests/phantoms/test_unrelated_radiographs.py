import numpy as np
import pytest

from mura_hf.phantoms import UNRELATED_KINDS, render_unrelated


@pytest.mark.parametrize("kind", UNRELATED_KINDS)
def test_pictures_of_a_kind_differ_in_shape_and_content(kind):
    pictures = [render_unrelated(seed, kind, size=192) for seed in range(10)]
    for picture in pictures:
        assert picture.dtype == np.uint8
        assert 0.8 * 192 - 1 <= max(picture.shape) <= 1.25 * 192 + 1
        assert min(picture.shape) >= 0.7 * max(picture.shape)
        assert picture.std() > 3
    assert len({picture.shape for picture in pictures}) >= 8
    assert np.ptp([picture.mean() for picture in pictures]) > 10


@pytest.mark.parametrize("kind", UNRELATED_KINDS)
def test_a_seed_gives_one_picture(kind):
    first, again, other = (render_unrelated(seed, kind, size=128) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


def test_films_are_bright_in_the_middle_and_dark_around_and_pages_are_not():
    def middle_over_border(kind: str) -> float:
        ratios = []
        for seed in range(8):
            picture = render_unrelated(seed, kind, size=128).astype(float)
            height, width = picture.shape
            border = np.concatenate([picture[:, :4].ravel(), picture[:, -4:].ravel()])
            inner = picture[height // 4 : -height // 4, width // 3 : -width // 3]
            ratios.append((inner.mean() + 1) / (border.mean() + 1))
        return float(np.median(ratios))

    assert middle_over_border("skull") > 3
    assert middle_over_border("chest") > 1.2
    assert middle_over_border("text") < 1.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, "leg"), "'leg'.*noise, text"), ((-1, "noise"), "0 or above"), ((0, "noise", 32), "64 or above")],
)
def test_refuses_the_unknown(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_unrelated(*arguments)
