import numpy as np
import pytest

from mura_hf.explain import Box, localize


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


@pytest.mark.parametrize(
    ("heatmap", "threshold"), [(np.zeros((2, 2, 2)), 0.7), (np.full((4, 4), np.nan), 0.7), (np.eye(4), 1.0)]
)
def test_refuses_what_is_no_map(heatmap, threshold):
    with pytest.raises(ValueError, match=r"heatmap|threshold"):
        localize(heatmap, threshold)
