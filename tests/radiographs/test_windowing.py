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

    @pytest.mark.parametrize("framed", [False, True])
    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize(
        "window",
        [
            {"WindowCenter": 60000, "WindowWidth": 10},
            {"WindowCenter": 500, "WindowWidth": 900},  # below all values but the frame
            {"WindowCenter": 3000, "WindowWidth": 9},  # a handful of tones
            {"WindowCenter": 30000, "WindowWidth": 60000},  # all values within some dark tones
            {"WindowCenter": 6085, "WindowWidth": 1990},  # a few pixels between the ends
            {"WindowCenter": 90, "WindowWidth": 9, "VOILUTFunction": "SIGMOID"},
            {"VOILUTSequence": make_lut(np.arange(900))},
        ],
    )
    def test_a_window_that_leaves_next_to_nothing_is_ignored_with_a_warning(self, window, photometric, framed):
        values = FILM // 2 + np.uint16(3100)
        if framed:
            values[:9], values[:, -9:] = 0, 0
        if "WindowWidth" in window and window["WindowWidth"] == 60000:
            values //= 40
        plain = encode_dicom(values, photometric=photometric)
        radiograph = read_radiograph(changed(plain, **window), name="x.dcm")
        np.testing.assert_array_equal(radiograph.pixels, read_radiograph(plain).pixels)
        (warning,) = radiograph.warnings
        assert warning.startswith(
            "x.dcm specifies a window that shows next to nothing of the picture; the percentiles"
        )

    @pytest.mark.parametrize(
        ("values", "window"),
        [
            (FILM, {"WindowCenter": 2048, "WindowWidth": 200}),
            (np.where(FILM > 3000, FILM, 0).astype(np.uint16), {"WindowCenter": 3500, "WindowWidth": 1000}),
            ((FILM > 2000).astype(np.uint16) * 900, {"WindowCenter": 450, "WindowWidth": 300}),
            (FILM // 400, {"WindowCenter": 5, "WindowWidth": 11}),
            (BYTES, {"WindowCenter": 100, "WindowWidth": 60}),
        ],
        ids=["narrow", "much background", "two tones", "eleven tones", "8 bits"],
    )
    def test_a_window_that_leaves_enough_is_used(self, values, window):
        radiograph = read_radiograph(encode_dicom(values, **window))
        assert radiograph.warnings == ()
        expected = WINDOWS["LINEAR"](values.astype(float), window["WindowCenter"], window["WindowWidth"])
        np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)

    def test_the_next_window_is_used_if_the_first_leaves_nothing(self):
        data = encode_dicom(FILM, bits_stored=12, WindowCenter=[60000, 2048], WindowWidth=[10, 4096])
        for file in (data, changed(encode_dicom(FILM, **FULL), VOILUTSequence=make_lut([9] * 4096))):
            radiograph = read_radiograph(file)
            np.testing.assert_allclose(radiograph.pixels * 4095, FILM, atol=0.01)
            assert "the next one was used" in radiograph.warnings[0]

    def test_the_first_of_several_windows_is_used(self):
        data = encode_dicom(FILM, bits_stored=12, WindowCenter=[2048, 100], WindowWidth=[4096, 10])
        np.testing.assert_allclose(read_radiograph(data).pixels * 4095, FILM, atol=0.01)


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

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("window", [{}, {"WindowCenter": 3000, "WindowWidth": 3500}])
    @pytest.mark.parametrize(
        ("kind", "bits", "padding", "elements"),
        [
            ("u2", 16, 0, {"PixelPaddingValue": ("US", 0)}),
            ("u2", 16, 3, {"PixelPaddingValue": ("US", 5), "PixelPaddingRangeLimit": ("US", 0)}),
            ("u2", 16, 65535, {"PixelPaddingValue": ("SS", -1)}),
            ("u2", 16, 40000, {"PixelPaddingValue": ("SS", -25536), "PixelPaddingRangeLimit": ("SS", -20000)}),
            ("i2", 16, -32000, {"PixelPaddingValue": ("US", 33536)}),
            ("i2", 14, -8192, {"PixelPaddingValue": ("US", 57344)}),  # the pattern with an extended sign
            ("i2", 14, -8192, {"PixelPaddingValue": ("US", 8192)}),  # and without
            ("i2", 16, -30000, {"PixelPaddingValue": ("OW", b"\xd0\x8a"), "PixelPaddingRangeLimit": ("US", 40000)}),
        ],
    )
    def test_padding_is_black_and_does_not_move_the_window(self, kind, bits, padding, elements, window, photometric):
        padded = (FILM + np.uint16(1000)).astype(kind)
        rest = read_radiograph(
            encode_dicom(padded[:, 10:], bits_stored=bits, photometric=photometric, **window)
        ).pixels
        padded[:, :10] = padding
        data = encode_dicom(padded, bits_stored=bits, photometric=photometric, **window)
        found = read_radiograph(changed(data, **elements)).pixels
        np.testing.assert_allclose(found[:, 10:], rest, atol=1e-6)
        assert not found[:, :10].any()
        if not window:
            assert not np.allclose(read_radiograph(data).pixels[:, 10:], rest, atol=1e-2)

    @pytest.mark.parametrize("elements", [
        {"PixelPaddingValue": ("US", 0), "PixelPaddingRangeLimit": ("US", 65535)},
        {"PixelPaddingRangeLimit": ("US", 0)}, {"PixelPaddingValue": ("LO", "none")},
    ])  # fmt: skip
    def test_padding_that_is_everything_or_nothing_is_ignored(self, elements):
        found = read_radiograph(changed(encode_dicom(FILM), **elements)).pixels
        np.testing.assert_array_equal(found, read_radiograph(encode_dicom(FILM)).pixels)


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

    @pytest.mark.parametrize(
        ("top", "bits", "range_of_tones"),
        [
            (1500, 12, 4095),  # entries that need less than the range, which is meant
            (1024, 12, 4095),
            (20000, 16, 65535),
            (70, 8, 255),
            (4095, 16, 4095),  # less than a quarter of the range: the descriptor is wrong
            (1023, 12, 1023),
            (4095, 8, 4095),  # too much for the range
            (3000, 0, 4095),
        ],
    )
    def test_a_lut_is_scaled_by_its_bits_unless_they_are_wrong(self, top, bits, range_of_tones):
        table = np.linspace(0, top, 4096).astype(int)
        data = changed(encode_dicom(FILM, bits_stored=12), VOILUTSequence=make_lut(table, bits=bits))
        np.testing.assert_allclose(read_radiograph(data).pixels * range_of_tones, table[FILM], atol=0.01)

    @pytest.mark.parametrize(
        ("values", "first", "representation"),
        [
            (FILM + np.uint16(40000), 40000, "SS"),
            (FILM + np.uint16(61000), 61000, "SS"),
            ((FILM.astype(int) - 3000).astype(np.int16), -3000, "US"),
            ((FILM.astype(int) - 32768).astype(np.int16), -32768, "US"),
        ],
    )
    @pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
    def test_a_descriptor_of_the_other_representation(self, values, first, representation, keyword):
        item = make_lut(np.arange(4096))
        pattern = first % 65536
        pattern -= 65536 * (representation == "SS" and pattern > 32767)
        item[0].add_new("LUTDescriptor", representation, [4096, pattern, 12])
        window = FULL if keyword == "ModalityLUTSequence" else {}
        data = changed(encode_dicom(values, **window), **{keyword: item})
        np.testing.assert_allclose(read_radiograph(data).pixels * 4095, FILM, atol=0.01)

    @pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
    @pytest.mark.parametrize("kind", ["empty", "no data", "no descriptor", "too short", "text", "odd descriptor"])
    def test_an_unusable_item_is_skipped(self, keyword, kind):
        item = Dataset() if kind == "empty" else make_lut(np.arange(4096) ** 2 % 977)[0]
        if kind == "no data":
            del item.LUTData
        elif kind == "no descriptor":
            item.LUTDescriptor = None
        elif kind == "too short":
            item.LUTData = item.LUTData[:3000]
        elif kind == "text":
            item.add_new("LUTData", "LT", "no data")
        elif kind == "odd descriptor":
            item.add_new("LUTDescriptor", "LO", "4096")
        plain = encode_dicom(FILM, bits_stored=12, RescaleSlope=1, RescaleIntercept=0, **FULL)
        warns = kind not in ("empty", "no data")
        for sequence, expected in (
            ([item], FILM), ([item, item], FILM), ([item, *make_lut(np.arange(4096)[::-1])], 4095 - FILM),
        ):  # fmt: skip
            radiograph = read_radiograph(changed(plain, **{keyword: sequence}), name="x.dcm")
            np.testing.assert_allclose(radiograph.pixels * 4095, expected, atol=0.01)
            text = "x.dcm contains a lookup table that does not fit its description; it was ignored."
            assert radiograph.warnings == ((text,) if warns else ())

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
