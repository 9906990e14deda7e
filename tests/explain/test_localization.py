import numpy as np
import pytest

from mura_hf.explain import Box, find_regions, localize


def test_frames_the_largest_hot_component():
    heatmap = np.zeros((40, 60))
    heatmap[5:12, 10:30] = 0.9
    heatmap[30:33, 50:53] = 1.0  # hotter, but smaller
    assert localize(heatmap) == Box(10, 5, 30, 12)


def test_threshold_is_a_share_of_the_maps_own_range():
    heatmap = np.full((20, 20), 5.0)
    heatmap[4:8, 6:9] = 7.0
    heatmap[4:8, 9:12] = 6.2
    assert localize(heatmap) == (6, 4, 9, 8)
    assert localize(heatmap, threshold=0.5) == (6, 4, 12, 8)


def test_corners_touch():
    heatmap = np.zeros((10, 10))
    heatmap[2, 2] = heatmap[3, 3] = 1
    assert localize(heatmap) == (2, 2, 4, 4)


def test_a_constant_map_points_nowhere():
    assert localize(np.zeros((8, 8))) is None
    assert localize(np.ones((8, 8))) is None


def test_each_large_region_is_told_in_pixels_and_shares():
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


def test_area_counts_hot_pixels_not_the_box():
    heatmap = np.eye(10)
    (region,) = find_regions(heatmap)
    assert (region.box, region.area, region.share, region.mean_heat) == (Box(0, 0, 10, 10), 10, 0.1, 1.0)


def test_min_share_must_be_a_share():
    with pytest.raises(ValueError, match="min_share is 2"):
        find_regions(np.eye(4), min_share=2)


@pytest.mark.parametrize(
    ("heatmap", "threshold"), [(np.zeros((2, 2, 2)), 0.7), (np.full((4, 4), np.nan), 0.7), (np.eye(4), 1.0)]
)
def test_refuses_what_is_no_map(heatmap, threshold):
    with pytest.raises(ValueError, match=r"heatmap|threshold"):
        localize(heatmap, threshold)
