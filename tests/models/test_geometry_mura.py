import numpy as np
import pytest

from mura_hf.models.geometry_mura import find_field_inside_border
from mura_hf.phantoms import FINDINGS, render_phantom

RNG = np.random.default_rng(0)


def _framed(height, width, field, tone, noise=2):
    """Noisy tissue inside the field x0, y0, x1, y1, with a nearly uniform border around it."""
    plane = np.clip(tone + RNG.integers(-noise, noise + 1, (height, width)), 0, 255).astype(np.uint8)
    x0, y0, x1, y1 = field
    plane[y0:y1, x0:x1] = RNG.integers(70, 200, (y1 - y0, x1 - x0))
    return plane


@pytest.mark.parametrize("tone", [0, 3, 40, 230, 255])
@pytest.mark.parametrize("field", [(30, 40, 180, 270), (0, 40, 200, 300), (50, 0, 200, 300), (0, 0, 140, 220)])
def test_a_uniform_border_is_cropped_to_a_margin_of_a_hundredth(tone, field):
    found = find_field_inside_border(_framed(300, 200, field, tone))
    x0, y0, x1, y1 = field
    assert found == (max(0, x0 - 2), max(0, y0 - 3), min(200, x1 + 2), min(300, y1 + 3))


@pytest.mark.parametrize(
    ("field", "tone", "noise"),
    [
        ((0, 0, 200, 300), 0, 0),  # no border
        ((40, 60, 160, 240), 120, 2),  # neither black nor white
        ((40, 60, 160, 240), 20, 15),  # not uniform
        ((2, 3, 198, 297), 0, 0),  # not wider than the margin
        ((80, 120, 120, 180), 0, 2),  # less than a quarter would remain
    ],
)
def test_images_without_a_clear_border_stay_whole(field, tone, noise):
    assert find_field_inside_border(_framed(300, 200, field, tone, noise)) == (0, 0, 200, 300)


def test_limits_of_trimming():
    plane = _framed(300, 200, (30, 0, 200, 300), 2)
    plane[:60, 30:] = 254  # beside the black border, and uniform only once that is gone
    assert find_field_inside_border(plane) == (28, 57, 200, 300)
    assert find_field_inside_border(np.zeros((50, 60), np.uint8)) == (0, 0, 60, 50)  # a single tone
    x0, _, x1, _ = find_field_inside_border(_framed(300, 200, (150, 0, 200, 300), 0))
    assert (x0, x1) == (78, 200)  # at most two fifths from a side


@pytest.mark.parametrize(("thickness", "top"), [(4, 145), (7, 55)])
def test_what_reaches_into_the_border_stops_the_trimming(thickness, top):
    plane = _framed(500, 500, (0, 150, 500, 500), 5)
    plane[60:150, 200 : 200 + thickness] = 120  # a finger, 90 lines into the border; 1 % of a line are 5 pixels
    assert find_field_inside_border(plane)[1] == top


@pytest.mark.parametrize("seed", range(0, 42, 6))
def test_a_finding_is_never_cropped(seed):
    phantom = render_phantom(seed, finding=FINDINGS[seed % len(FINDINGS)], size=256)
    height, width = phantom.pixels.shape
    # A wide frame in the darkest tone of the phantom, as a scanner adds it.
    framed = np.full((height + 80, width + 60), phantom.pixels.min(), np.uint8)
    framed[40:-40, 30:-30] = phantom.pixels
    x0, y0, x1, y1 = find_field_inside_border(framed)
    assert (x0, y0, x1, y1) != (0, 0, *framed.shape[::-1])
    if phantom.box is not None:
        left, top, right, bottom = phantom.box
        assert x0 <= left + 30
        assert y0 <= top + 40
        assert right + 30 <= x1
        assert bottom + 40 <= y1
