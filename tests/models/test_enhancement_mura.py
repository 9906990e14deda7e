import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from mura_hf.models import enhancement_mura
from mura_hf.models.enhancement_mura import apply_filters, complete_filters
from mura_hf.phantoms import render_phantom

PLANE = render_phantom(3, body_part="wrist", size=160).pixels
NAMES = ("clahe_lab", "clahe_gray", "high_frequency_emphasis", "unsharp")


def _apply(*enhance, plane=PLANE):
    return apply_filters(plane, complete_filters(list(enhance)))


@pytest.mark.parametrize("name", NAMES)
def test_filters_change_the_plane_and_take_any_shape(name):
    found = _apply(name)
    assert (found.dtype, found.shape) == (np.uint8, PLANE.shape)
    assert (found != PLANE).mean() > 0.05
    for shape in ((1, 1), (1, 40), (300, 3), (37, 53)):
        plane = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        assert _apply(name, plane=plane).shape == shape


def test_clahe_equals_opencv():
    expected = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(4, 4)).apply(PLANE)
    np.testing.assert_array_equal(_apply({"name": "clahe_gray", "clip_limit": 3, "tiles": 4}), expected)
    # In LAB: by RGB, and back to luminance.
    lab = cv2.cvtColor(np.dstack([PLANE] * 3), cv2.COLOR_RGB2LAB)
    lightness, *colors = cv2.split(lab)
    merged = cv2.merge([cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lightness), *colors])
    red, green, blue = cv2.split(cv2.cvtColor(merged, cv2.COLOR_LAB2RGB).astype(int))
    luminance = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16  # ITU-R 601 in 16-bit fractions
    np.testing.assert_array_equal(_apply("clahe"), luminance)
    np.testing.assert_array_equal(_apply("clahe_lab"), luminance)
    assert (_apply("clahe_gray") != luminance).any()


@pytest.mark.parametrize(("cutoff", "low", "high"), [(0.05, 0.5, 1.25), (0.02, 1.0, 2.0), (0.1, 0.0, 1.0)])
def test_high_frequency_emphasis_is_a_gaussian_high_pass(cutoff, low, high):
    # scipy blurs in space, with a Gaussian of 1 / (2 pi cutoff) pixels; "reflect" mirrors as this filter does.
    smooth = gaussian_filter(PLANE.astype(float), 1 / (2 * np.pi * cutoff), mode="reflect", truncate=8)
    expected = np.clip(low * PLANE + (high - low) * (PLANE - smooth), 0, 255)
    found = _apply({"name": "high_frequency_emphasis", "cutoff": cutoff, "low": low, "high": high})
    assert np.abs(found - expected).max() <= 0.51  # rounding


@pytest.mark.parametrize("side", [64, 96, 256])
def test_a_cutoff_means_the_same_detail_at_every_size(side):
    frequency = 4 / 64  # cycles per pixel
    wave = 128 + 50 * np.cos(2 * np.pi * frequency * (np.arange(side) + 0.5))
    found = _apply("high_frequency_emphasis", plane=np.tile(np.rint(wave).astype(np.uint8), (side, 1)))
    gain = 0.5 + 0.75 * (1 - np.exp(-(frequency**2) / (2 * 0.05**2)))
    np.testing.assert_allclose(found[side // 2], 0.5 * 128 + gain * (wave - 128), atol=1.5)


def test_unsharp_adds_the_difference_from_a_blur():
    blurred = np.asarray(Image.fromarray(PLANE).filter(ImageFilter.GaussianBlur(3))).astype(float)
    expected = np.clip(PLANE + 0.7 * (PLANE - blurred), 0, 255)
    found = _apply({"name": "unsharp", "radius": 3, "amount": 0.7})
    assert np.abs(found - expected).max() <= 1
    unchanged = _apply({"name": "unsharp", "radius": 3, "amount": 0.7, "threshold": 255})
    np.testing.assert_array_equal(unchanged, PLANE)
    both = _apply("unsharp", "clahe_gray")  # in this order
    np.testing.assert_array_equal(both, _apply("clahe_gray", plane=_apply("unsharp")))
    assert (both != _apply("clahe_gray", "unsharp")).any()


def test_defaults_are_written_out():
    assert complete_filters(None) == complete_filters([]) == []
    full = {"name": "clahe", "space": "gray", "clip_limit": 2.0, "tiles": 8}
    for form in ("clahe_gray", ["clahe_gray"], {"name": "clahe", "space": "gray"}, (full,)):
        assert complete_filters(form) == [full]
    assert complete_filters(complete_filters([*NAMES])) == complete_filters([*NAMES])


@pytest.mark.parametrize(
    ("enhance", "message"),
    [
        ("clahe_grey", "did you mean 'clahe_gray'"),
        ("sobel", "choose one of clahe, high_frequency_emphasis, unsharp, clahe_lab, clahe_gray"),
        ({"name": "unsharp", "radios": 2}, "unsharp has no setting 'radios'; did you mean 'radius'"),
        ({"name": "clahe_lab", "space": "gray"}, "clahe_lab has no setting 'space'"),
        ({"name": "clahe", "space": "hsv"}, "must be gray or lab"),
        ({"name": "clahe", "tiles": 2.5}, "whole number"),
        ({"name": "clahe", "tiles": 0}, "from 1 to 64"),
        ({"name": "clahe", "clip_limit": 0}, "from 0.001 to 100"),
        ({"name": "clahe", "clip_limit": "2"}, "must be a number"),
        ({"name": "high_frequency_emphasis", "cutoff": 0.6}, "to 0.5"),
        ({"name": "high_frequency_emphasis", "cutoff": float("nan")}, "from 0.001"),
        ({"name": "high_frequency_emphasis", "low": 2}, "above low"),
        ({"name": "unsharp", "amount": True}, "must be a number"),
        ({"radius": 2}, "a dict with a name"),
        ([["unsharp"]], "a filter is a name"),
        (3, "or a list"),
    ],
)
def test_invalid_filters_are_rejected(enhance, message):
    with pytest.raises(ValueError, match=message):
        complete_filters(enhance)


def test_only_clahe_needs_opencv(monkeypatch):
    monkeypatch.setattr(enhancement_mura, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        complete_filters("clahe_gray")
    assert _apply("high_frequency_emphasis", "unsharp").shape == PLANE.shape
