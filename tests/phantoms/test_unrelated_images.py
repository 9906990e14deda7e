import numpy as np
import pytest

from mura_hf.phantoms import UNRELATED_KINDS, render_unrelated


@pytest.mark.parametrize("kind", UNRELATED_KINDS)
def test_images_of_a_kind_differ_in_shape_and_content(kind):
    images = [render_unrelated(seed, kind, size=128) for seed in range(10)]
    for image in images:
        assert image.dtype == np.uint8
        assert 0.8 * 128 - 1 <= max(image.shape) <= 1.25 * 128 + 1
        assert min(image.shape) >= 0.7 * max(image.shape)
        assert image.std() > 3
    assert len({image.shape for image in images}) >= 8
    assert np.ptp([image.mean() for image in images]) > 10
    np.testing.assert_array_equal(images[7], render_unrelated(7, kind, size=128))


def test_films_are_bright_in_the_middle_and_dark_around_and_pages_are_not():
    def middle_over_border(kind):
        ratios = []
        for seed in range(8):
            image = render_unrelated(seed, kind, size=128).astype(float)
            height, width = image.shape
            border = np.concatenate([image[:, :4].ravel(), image[:, -4:].ravel()])
            inner = image[height // 4 : -height // 4, width // 3 : -width // 3]
            ratios.append((inner.mean() + 1) / (border.mean() + 1))
        return float(np.median(ratios))

    assert middle_over_border("skull") > 3
    assert middle_over_border("chest") > 1.2
    assert middle_over_border("text") < 1.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, "leg"), "'leg'.*noise, text"), ((-1, "noise"), "0 or more"), ((0, "noise", 32), "64 or more")],
)
def test_refuses_the_unknown(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_unrelated(*arguments)
