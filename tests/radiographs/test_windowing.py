import io

import numpy as np
import pydicom
import pytest
from dicom_files import encode_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

from mura_hf import read_radiograph
from mura_hf.radiographs.windowing import WINDOWS, count_values, find_percentiles, window_percentiles

from .films import BYTES, FILM, FULL, changed, encode, make_lut


class TestPercentiles:
    @given(arrays(np.uint16, (40, 30), elements=st.integers(0, 65535)))
    def test_equal_those_of_numpy(self, values):
        low, high = np.quantile(values, [0.001, 0.999])
        if high > low:
            found = find_percentiles(np.arange(65536.0), count_values(values))
            np.testing.assert_allclose(found, (low, high), rtol=1e-12)

    def test_of_a_falling_table(self):
        values = np.arange(2000, dtype=np.uint16).reshape(40, 50)
        table = -3.0 * np.arange(65536)
        found = find_percentiles(table, count_values(values))
        np.testing.assert_allclose(found, np.quantile(table[values], [0.001, 0.999]))

    def test_a_single_value_becomes_zeros(self):
        assert not window_percentiles(np.full((20, 20), 900, np.uint16)).any()


class TestWindows:
    @pytest.mark.parametrize("function", sorted(WINDOWS))
    @pytest.mark.parametrize(("center", "width"), [(2048, 4096), (100.5, 1), (-30, 250.25), (4000, 2)])
    def test_equal_those_of_pydicom(self, function, center, width):
        values = np.arange(-500.0, 4500.0)
        header = Dataset()
        header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 12, 0
        header.WindowCenter, header.WindowWidth, header.VOILUTFunction = center, width, function
        expected = apply_windowing(values, header) / 4095
        np.testing.assert_allclose(WINDOWS[function](values, center, width), expected, atol=1e-9)

    @pytest.mark.parametrize(
        "window", [("", ""), (100, 0), (100, -5), (float("nan"), 10)], ids=["empty", "zero", "negative", "nan"]
    )
    def test_an_invalid_window_is_ignored(self, window):
        data = encode_dicom(FILM, WindowCenter="9" * 6, WindowWidth="8" * 6)
        center, width = (str(value).encode().ljust(6)[:6] for value in window)
        data = data.replace(b"999999", center).replace(b"888888", width)
        np.testing.assert_array_equal(read_radiograph(data).pixels, read_radiograph(encode_dicom(FILM)).pixels)

    def test_a_window_that_shows_nothing_is_ignored_with_a_warning(self):
        radiograph = read_radiograph(encode_dicom(FILM, WindowCenter=60000, WindowWidth=10), name="x.dcm")
        np.testing.assert_array_equal(radiograph.pixels, read_radiograph(encode_dicom(FILM)).pixels)
        (warning,) = radiograph.warnings
        assert warning.startswith("x.dcm specifies a window that shows next to nothing of the picture")

    def test_the_first_of_several_windows_is_used(self):
        data = encode_dicom(FILM, bits_stored=12, WindowCenter=[2048, 100], WindowWidth=[4096, 10])
        np.testing.assert_allclose(read_radiograph(data).pixels * 4095, FILM, atol=0.01)

    @pytest.mark.parametrize("separator", [b"", b"\\"])
    @pytest.mark.parametrize("slope", ["0.5000", "2.5000"])
    def test_a_decimal_comma_is_a_point(self, slope, separator):
        window = {"WindowCenter": "1024.5", "WindowWidth": "2000.5"} if not separator else {}
        window = window or {"WindowCenter": "1024.5\\70.5", "WindowWidth": "2000.5\\90.5"}
        data = encode_dicom(FILM, bits_stored=12, RescaleSlope=slope, RescaleIntercept="-10.25", **window)
        written = data
        for number in (slope, "-10.25", "1024.5", "2000.5", "70.5", "90.5"):
            written = written.replace(number.encode(), number.replace(".", ",").encode())
        assert written != data
        np.testing.assert_array_equal(read_radiograph(written).pixels, read_radiograph(data).pixels)


class TestTones:
    def test_16_bits_are_windowed_like_png(self):
        for values in (FILM, FILM * 16):
            png, dicom = read_radiograph(encode(values)), read_radiograph(encode_dicom(values))
            np.testing.assert_allclose(dicom.pixels, png.pixels, atol=1e-6)
            inverted = encode_dicom(values.max() - values, photometric="MONOCHROME1")
            np.testing.assert_allclose(read_radiograph(inverted).pixels, png.pixels, atol=1 / 255)

    def test_8_bits_keep_their_values(self):
        signed = (BYTES.astype(int) - 128).astype(np.int8)
        scaled = encode_dicom(BYTES, RescaleSlope=2.5, RescaleIntercept=-100)
        for data in (encode_dicom(BYTES), scaled, encode_dicom(signed)):
            np.testing.assert_array_equal(read_radiograph(data).to_uint8(), BYTES)

    @settings(max_examples=40, deadline=None)
    @given(
        bits=st.integers(8, 16),
        signed=st.booleans(),
        slope=st.sampled_from([None, 1, 0.5, 3.25, -1]),
        intercept=st.sampled_from([0, -1024, 77.5]),
        window=st.sampled_from([None, (0.5, 1.0), (0.3, 0.2), (-1.0, 0.1)]),
        function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", None]),
    )
    def test_monochrome1_is_the_inverse(self, bits, signed, slope, intercept, window, function):
        stored = (FILM.astype(np.int64) << 4) >> (16 - bits)
        if signed:
            stored -= 1 << (bits - 1)
        kind = f"{'i' if signed else 'u'}{1 if bits == 8 else 2}"
        elements = {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": intercept}
        if window:
            numbers = stored * (slope or 1) + (intercept if slope else 0)
            center = float(np.round(numbers.min() + window[0] * np.ptp(numbers), 3))
            width = float(round(window[1] * np.ptp(numbers), 3))
            elements |= {"WindowCenter": center, "WindowWidth": width}
            elements |= {"VOILUTFunction": function} if function else {}
        bright, dark = (
            read_radiograph(encode_dicom(stored.astype(kind), bits_stored=bits, photometric=photometric, **elements))
            for photometric in ("MONOCHROME2", "MONOCHROME1")
        )
        np.testing.assert_array_equal(dark.pixels, np.float32(1) - bright.pixels)
        assert 0 <= bright.pixels.min() <= bright.pixels.max() <= 1
        if window and window[0] > 0 and function != "SIGMOID":
            center, width = (center, width) if function == "LINEAR_EXACT" else (center - 0.5, width - 1)
            expected = np.clip((numbers.astype(float) - center) / width + 0.5, 0, 1)
            np.testing.assert_allclose(bright.pixels, expected, atol=1e-4)

    def test_presentation_lut_shape_inverse(self):
        plain = read_radiograph(encode_dicom(FILM)).pixels
        for photometric, shape in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "INVERSE"), ("MONOCHROME1", None)):
            data = encode_dicom(FILM, photometric=photometric, **({"PresentationLUTShape": shape} if shape else {}))
            np.testing.assert_array_equal(read_radiograph(data).pixels, np.float32(1) - plain)

    def test_padding_does_not_move_the_window(self):
        padded = FILM + np.uint16(1000)
        padded[:, :10] = 0
        rest = read_radiograph(encode_dicom(padded[:, 10:])).pixels
        for limits in ({"PixelPaddingValue": 0}, {"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 0}):
            found = read_radiograph(encode_dicom(padded, **limits)).pixels
            np.testing.assert_allclose(found[:, 10:], rest, atol=1e-6)
            assert not found[:, :10].any()
        assert not np.allclose(read_radiograph(encode_dicom(padded)).pixels[:, 10:], rest, atol=1e-2)


class TestLookupTables:
    def test_modality_lut_comes_before_the_window(self):
        table = np.sqrt(np.arange(4096) / 4095) * 4000
        data = changed(encode_dicom(FILM, bits_stored=12, **FULL), ModalityLUTSequence=make_lut(table))
        expected = apply_modality_lut(FILM, pydicom.dcmread(io.BytesIO(data)))
        np.testing.assert_allclose(read_radiograph(data).pixels * 4095, expected, atol=0.01)

    @pytest.mark.parametrize("first", [0, 300, -1000])
    def test_voi_lut_is_preferred_to_the_window(self, first):
        table = (np.arange(3000) / 2999) ** 2 * 65535
        data = encode_dicom(
            FILM, bits_stored=12, WindowCenter=10, WindowWidth=5, RescaleSlope=1, RescaleIntercept=-500
        )
        data = changed(data, VOILUTSequence=make_lut(table, first % 65536))
        item = make_lut(table, first % 65536)[0]
        item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [3000, first, 16])
        reference = Dataset()
        reference.VOILUTSequence = [item]
        reference.file_meta = pydicom.dcmread(io.BytesIO(data)).file_meta
        expected = apply_voi(FILM.astype(np.int64) - 500, reference)
        np.testing.assert_allclose(read_radiograph(data).pixels * 65535, expected, atol=0.01)

    def test_a_lut_of_fewer_bits_than_it_declares(self):
        data = changed(encode_dicom(FILM, bits_stored=12), VOILUTSequence=make_lut(np.arange(4096)))  # 12 bits, not 16
        np.testing.assert_allclose(read_radiograph(data).pixels * 4095, FILM, atol=0.01)

    def test_palette(self):
        ramps = {"Red": np.arange(256), "Green": np.arange(256)[::-1], "Blue": np.full(256, 40)}
        dataset = pydicom.dcmread(io.BytesIO(encode_dicom(BYTES, photometric="PALETTE COLOR")))
        for colour, ramp in ramps.items():
            dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", (ramp.astype("<u2") * 257).tobytes())
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        expected = (0.299 * BYTES + 0.587 * (255 - BYTES) + 0.114 * 40) / 255
        np.testing.assert_allclose(read_radiograph(buffer.getvalue()).pixels, expected, atol=1e-4)
