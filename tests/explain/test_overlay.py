import numpy as np
import pytest

from mura_hf.explain import Box, Region, colour_heat, draw_overlay


def test_colours_are_clear_where_it_is_cold_and_grow_lighter_with_the_heat():
    colours = colour_heat(np.linspace(0, 1, 11)[None])[0].astype(int)
    assert colours.shape == (11, 4)
    assert colours[0, 3] == 0
    assert colours[-1, 3] == 255
    lightness = colours[:, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()


def test_a_cold_map_leaves_the_film_alone_and_opacity_is_a_share():
    film = np.random.default_rng(0).random((30, 40))
    plain = draw_overlay(film, np.zeros((30, 40)))
    assert plain.dtype == np.uint8
    np.testing.assert_array_equal(plain, np.repeat(np.rint(film * 255)[..., None], 3, axis=2))
    hot = colour_heat(np.ones((30, 40)))[0, 0, :3].astype(float)
    for opacity in (0.0, 0.5, 1.0):
        drawn = draw_overlay(film, np.ones((30, 40)), opacity=opacity).astype(float)
        np.testing.assert_allclose(drawn, (1 - opacity) * film[..., None] * 255 + opacity * hot, atol=0.51)


def test_frames_stand_on_the_edges_of_the_regions():
    drawn = draw_overlay(np.zeros((50, 60)), np.zeros((50, 60)), [Region(Box(10, 5, 30, 20), 300, 0.1, 1.0)])
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert abs(rows.min() - 5) <= 1
    assert abs(rows.max() - 19) <= 1
    assert abs(columns.min() - 10) <= 1
    assert abs(columns.max() - 29) <= 1
    assert not drawn[10:15, 15:25].any()


def test_refuses_what_does_not_belong_together():
    with pytest.raises(ValueError, match="both must be"):
        draw_overlay(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="opacity is 2"):
        draw_overlay(np.zeros((4, 4)), np.zeros((4, 4)), opacity=2)
