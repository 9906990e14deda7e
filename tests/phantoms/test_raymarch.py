from dataclasses import replace

import numpy as np
import pytest

from mura_hf.phantoms.geometry import FOCUS_MM, Body, Camera, make_ball, make_loft, rotation
from mura_hf.phantoms.raymarch import cast_shadow, grain_volume

CAMERA = Camera(np.eye(3), np.zeros(3), 0.0, 2.0, False, (161, 161))


def _picture(body, camera=CAMERA, **options):
    picture = np.zeros(camera.shape, np.float32)
    shadow = cast_shadow(body, camera, **{"dense": 1.0, "spongy": 0.0, **options})
    if shadow is not None:
        picture[shadow[0]] = shadow[1]
    return picture


def test_a_solid_ball_is_as_long_as_its_chords():
    picture = _picture(Body("ball", (make_ball((0, 0, 0), (20, 20, 20), wall=99),)))
    for away in (0, 8, 15):
        expected = 2 * np.sqrt(20**2 - away**2)
        assert picture[80, 80 + 2 * away] == pytest.approx(expected, rel=0.05)
    assert picture[80, 80 + 44] == 0


def test_a_hollow_tube_is_its_wall():
    tube = make_loft((0, -60, 0), (0, 60, 0), [(0, 15, 15), (1, 15, 15)], wall=3.0, filling=0.0, caps=(0, 0))
    picture = _picture(Body("tube", (tube,)))
    assert picture[80, 80] == pytest.approx(6, rel=0.15)  # the distance is of first order, so walls come out thin
    inner = 2 * np.sqrt(15**2 - 13.5**2)
    assert picture[80, 80 + 27] == pytest.approx(inner, rel=0.15)  # at the wall's edge: more than through its face
    filled = _picture(Body("tube", (tube,)), spongy=1.0)
    np.testing.assert_allclose(filled, picture, atol=1e-5)  # nothing inside that could be filled


def test_bodies_that_overlap_are_counted_once():
    one = make_ball((0, 0, 0), (20, 20, 20), wall=99)
    twice = _picture(Body("both", (one, one), melt=0.1))
    np.testing.assert_allclose(twice[80, 80], _picture(Body("one", (one,)))[80, 80], rtol=0.05)


def test_a_beam_that_diverges_enlarges_what_is_near_the_focus():
    ball = Body("ball", (make_ball((0, 0, 0), (10, 10, 10), wall=99),))
    far, near = ((_picture(ball, replace(CAMERA, gap=gap)) > 1).sum() for gap in (0.0, 300.0))
    assert near / far == pytest.approx((FOCUS_MM / (FOCUS_MM - 300)) ** 2, rel=0.1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_rays_run_through_what_is_projected(mirrored):
    camera = Camera(rotation(1, 0.7) @ rotation(2, 0.2), np.array([5.0, -3, 2]), 60.0, 3.0, mirrored, (200, 150))
    point = np.array([12.0, 9.0, -7.0])
    column, row = camera.project(point[None])[0]
    source, corner, right, down = (value.astype(float) for value in camera.rays())
    ray = corner + right * column + down * row - source
    ray /= np.linalg.norm(ray)
    away = (point - source) - ((point - source) @ ray) * ray
    assert np.linalg.norm(away) < 1e-2


def test_a_body_outside_the_picture_throws_no_shadow():
    assert cast_shadow(Body("ball", (make_ball((500, 0, 0), (5, 5, 5)),)), CAMERA, dense=1, spongy=1) is None


def test_the_texture_is_noise_without_a_mean():
    grain = grain_volume()
    assert abs(grain.mean()) < 1e-3
    assert grain.std() == pytest.approx(1, abs=1e-3)
