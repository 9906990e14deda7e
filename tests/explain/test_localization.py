import numpy as np
import pytest
import torch
from PIL import Image

from mura_hf.explain import Box, Region, colour_heat, draw_overlay, find_regions, localize


def test_threshold_is_a_share_of_the_maps_own_range():
    heatmap = np.full((20, 20), 5.0)
    heatmap[4:8, 6:9] = 7.0
    heatmap[4:8, 9:12] = 6.2
    assert localize(heatmap) == (6, 4, 9, 8)
    assert localize(heatmap, threshold=0.5) == (6, 4, 12, 8)


def test_a_constant_map_points_nowhere():
    assert localize(np.ones((8, 8))) is None


def test_each_large_region_has_its_area_and_share():
    heatmap = np.zeros((40, 60))
    heatmap[5:12, 10:30] = 0.8  # 140 pixels
    heatmap[20:30, 40:46] = 1.0  # 60 pixels
    heatmap[35:38, 5:8] = 0.9  # 9 pixels, too few beside the largest
    first, second = find_regions(heatmap)
    assert (first.box, first.area, first.share) == (Box(10, 5, 30, 12), 140, 140 / 2400)
    assert (second.box, second.area, second.share) == (Box(40, 20, 46, 30), 60, 60 / 2400)
    assert (first.mean_heat, second.mean_heat) == pytest.approx((0.8, 1.0))
    assert [region.area for region in find_regions(heatmap, min_share=0.0)] == [140, 60, 9]
    assert find_regions(heatmap, min_share=1.0) == [first]
    assert localize(heatmap) == first.box
    assert find_regions(np.ones((4, 4))) == []


def test_area_counts_hot_pixels_not_the_box_and_corners_touch():
    heatmap = np.eye(10)
    (region,) = find_regions(heatmap)
    assert (region.box, region.area, region.share, region.mean_heat) == (Box(0, 0, 10, 10), 10, 0.1, 1.0)


@pytest.mark.parametrize(
    ("use", "given", "options", "message"),
    [
        (localize, [np.zeros((2, 2, 2))], {}, "heatmap"),
        (localize, [np.full((4, 4), np.nan)], {}, "heatmap"),
        (localize, [np.eye(4)], {"threshold": 1.0}, "threshold"),
        (find_regions, [np.eye(4)], {"min_share": 2}, "min_share is 2"),
        (draw_overlay, [np.eye(4), np.zeros((4, 5))], {}, "both must be"),
        (draw_overlay, [np.eye(4), np.eye(4)], {"opacity": 2}, "opacity is 2"),
    ],
)
def test_refuses_invalid_maps(use, given, options, message):
    with pytest.raises(ValueError, match=message):
        use(*given, **options)


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
    edges = rows.min(), rows.max(), columns.min(), columns.max()
    np.testing.assert_allclose(edges, (5, 19, 10, 29), atol=1)
    assert not drawn[10:15, 15:25].any()


def test_views_are_converted_like_those_of_the_image_processor():
    levels = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    heat = np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)
    expected = draw_overlay(levels / np.float32(255), heat)
    np.testing.assert_array_equal(draw_overlay(Image.fromarray(levels), torch.from_numpy(heat)), expected)
    with pytest.raises(ValueError, match="float pixels must lie in"):
        draw_overlay(np.full((4, 4), 200.0), np.zeros((4, 4)))
