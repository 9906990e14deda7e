import numpy as np
import pytest

from mura_hf.phantoms.geometry import Body, Camera, make_ball
from mura_hf.phantoms.raymarch import cast_shadow


def test_a_solid_ball_is_as_long_as_its_chords():
    """What the renderer draws with it is pinned by the digests in `test_rendering`."""
    camera = Camera(np.eye(3), np.zeros(3), 0.0, 2.0, False, (161, 161))
    window, shadow = cast_shadow(
        Body("ball", (make_ball((0, 0, 0), (20, 20, 20), wall=99),)), camera, dense=1, spongy=0
    )
    picture = np.zeros(camera.shape, np.float32)
    picture[window] = shadow
    for away in (0, 8, 15):
        assert picture[80, 80 + 2 * away] == pytest.approx(2 * np.sqrt(20**2 - away**2), rel=0.05)
    assert picture[80, 80 + 44] == 0
    assert cast_shadow(Body("ball", (make_ball((500, 0, 0), (5, 5, 5)),)), camera, dense=1, spongy=1) is None
