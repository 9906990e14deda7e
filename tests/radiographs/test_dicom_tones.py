import io

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi

from mura_hf import read_radiograph
from mura_hf.phantoms.dicom_files import encode_dicom

from .films import BYTES, FILM, FULL, changed, encode_png, make_lut


class TestTones:
    def test_16_bits_are_those_of_aencode_png(self):
        for values in (FILM, FILM * 16):
            png, dicom = read_radiograph(encode_png(values)), read_radiograph(encode_dicom(values))
            np.testing.assert_allclose(dicom.pixels, png.pixels, atol=1e-6)
            inverted = encode_dicom(values.max() - values, photometric="MONOCHROME1")
            np.testing.assert_allclose(read_radiograph(inverted).pixels, png.pixels, atol=1 / 255)

    def test_8_bits_are_as_they_are(self):
        assert np.array_equal(read_radiograph(encode_dicom(BYTES)).to_uint8(), BYTES)
        scaled = encode_dicom(BYTES, RescaleSlope=2.5, RescaleIntercept=-100)
        np.testing.assert_array_equal(read_radiograph(scaled).to_uint8(), BYTES)
        signed = encode_dicom((BYTES.astype(int) - 128).astype(np.int8))
        np.testing.assert_array_equal(read_radiograph(signed).to_uint8(), BYTES)

    @settings(max_examples=60, deadline=None)
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
            center = numbers.min() + window[0] * np.ptp(numbers)
            elements |= {
                "WindowCenter": float(np.round(center, 3)),
                "WindowWidth": float(round(window[1] * np.ptp(numbers), 3)),
            }
            elements |= {"VOILUTFunction": function} if function else {}
        bright, dark = (
            read_radiograph(encode_dicom(stored.astype(kind), bits_stored=bits, photometric=photometric, **elements))
            for photometric in ("MONOCHROME2", "MONOCHROME1")
        )
        np.testing.assert_array_equal(dark.pixels, np.float32(1) - bright.pixels)
        assert bright.pixels.min() >= 0
        assert bright.pixels.max() <= 1
        if window and window[0] > 0 and function != "SIGMOID":
            numbers = numbers.astype(float)
            width = elements["WindowWidth"]
            center, width = (center, width) if function == "LINEAR_EXACT" else (center - 0.5, width - 1)
            expected = np.clip((numbers - center) / width + 0.5, 0, 1)
            np.testing.assert_allclose(bright.pixels, expected, atol=1e-4)

    def test_presentation_lut_shape_inverse(self):
        plain = read_radiograph(encode_dicom(FILM)).pixels
        for photometric, shape in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "INVERSE"), ("MONOCHROME1", None)):
            elements = {"PresentationLUTShape": shape} if shape else {}
            data = encode_dicom(FILM, photometric=photometric, **elements)
            np.testing.assert_array_equal(read_radiograph(data).pixels, np.float32(1) - plain)

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

    def test_a_lut_of_fewer_bits_than_it_says(self):
        table = np.arange(4096)  # 12 bits, called 16
        data = changed(encode_dicom(FILM, bits_stored=12), VOILUTSequence=make_lut(table))
        np.testing.assert_allclose(read_radiograph(data).pixels * 4095, FILM, atol=0.01)

    @pytest.mark.parametrize(
        "window", [("", ""), (100, 0), (100, -5), (float("nan"), 10)], ids=["empty", "zero", "negative", "nan"]
    )
    def test_a_window_that_is_none_is_left_out(self, window):
        plain = encode_dicom(FILM)
        data = encode_dicom(FILM, WindowCenter="9" * 6, WindowWidth="8" * 6)
        raw = [str(value).encode().ljust(6) for value in window]
        data = data.replace(b"999999", raw[0][:6]).replace(b"888888", raw[1][:6])
        np.testing.assert_array_equal(read_radiograph(data).pixels, read_radiograph(plain).pixels)

    def test_a_window_that_shows_nothing_is_left_out_with_a_warning(self):
        radiograph = read_radiograph(encode_dicom(FILM, WindowCenter=60000, WindowWidth=10), name="x.dcm")
        np.testing.assert_array_equal(radiograph.pixels, read_radiograph(encode_dicom(FILM)).pixels)
        assert radiograph.warnings == ("x.dcm asks for a window that shows nothing; its own percentiles were used.",)

    def test_the_first_of_several_windows(self):
        data = encode_dicom(FILM, bits_stored=12, WindowCenter=[2048, 100], WindowWidth=[4096, 10])
        np.testing.assert_allclose(read_radiograph(data).pixels * 4095, FILM, atol=0.01)

    def test_padding_does_not_move_the_window(self):
        padded = FILM + np.uint16(1000)
        padded[:, :10] = 0
        rest = read_radiograph(encode_dicom(padded[:, 10:])).pixels
        for limits in ({"PixelPaddingValue": 0}, {"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 0}):
            found = read_radiograph(encode_dicom(padded, **limits)).pixels
            np.testing.assert_allclose(found[:, 10:], rest, atol=1e-6)
            assert not found[:, :10].any()
        assert not np.allclose(read_radiograph(encode_dicom(padded)).pixels[:, 10:], rest, atol=1e-2)
