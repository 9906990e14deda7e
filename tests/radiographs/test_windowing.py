import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from mura_hf.radiographs.windowing import WINDOWS, count_values, find_percentiles, window_percentiles


@given(arrays(np.uint16, (40, 30), elements=st.integers(0, 65535)))
def test_percentiles_are_those_of_numpy(values):
    low, high = np.quantile(values, [0.001, 0.999])
    if high > low:
        found = find_percentiles(np.arange(65536.0), count_values(values))
        np.testing.assert_allclose(found, (low, high), rtol=1e-12)


def test_percentiles_follow_a_table_that_falls():
    values = np.arange(2000, dtype=np.uint16).reshape(40, 50)
    table = -3.0 * np.arange(65536)
    found = find_percentiles(table, count_values(values))
    np.testing.assert_allclose(found, np.quantile(table[values], [0.001, 0.999]))


def test_one_tone_is_all_zeros():
    assert not window_percentiles(np.full((20, 20), 900, np.uint16)).any()


@pytest.mark.parametrize("function", sorted(WINDOWS))
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (100.5, 1), (-30, 250.25), (4000, 2)])
def test_windows_are_those_of_the_standard(function, center, width):
    """pydicom implements the standard's formulas, to the range of the stored values."""
    values = np.arange(-500.0, 4500.0)
    header = Dataset()
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 12, 0
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = center, width, function
    expected = apply_windowing(values, header) / 4095
    np.testing.assert_allclose(WINDOWS[function](values, center, width), expected, atol=1e-9)
