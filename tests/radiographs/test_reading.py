import contextlib
import zlib

import cv2
import numpy as np
import pytest
from dicom_files import encode_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mura_hf import Radiograph, RadiographError, read_radiograph
from mura_hf.radiographs import read_levels

from .films import BYTES, COLOURS, LUMINANCE, encode

IMAGE = Image.fromarray(BYTES)
PALETTE = IMAGE.convert("P")
PALETTE.putpalette([value for gray in range(256) for value in (gray, gray, gray)])


@pytest.mark.parametrize("image", [*map(IMAGE.convert, ("L", "RGB", "RGBA", "LA")), PALETTE], ids=lambda im: im.mode)
def test_8_bit_png_keeps_its_values(image, tmp_path):
    file = tmp_path / "view.png"
    file.write_bytes(encode(image))
    for source in (file, str(file), file.read_bytes()):
        radiograph = read_radiograph(source)
        assert isinstance(radiograph, Radiograph)
        assert (radiograph.bit_depth, radiograph.source_format, radiograph.body_part) == (8, "PNG", None)
        assert radiograph.pixels.dtype == np.float32
        np.testing.assert_array_equal(radiograph.to_uint8(), BYTES)
        np.testing.assert_array_equal(np.asarray(radiograph.to_image()), BYTES)


def test_one_bit_and_colour_png():
    np.testing.assert_array_equal(read_radiograph(encode(BYTES > 128)).pixels, (BYTES > 128).astype(np.float32))
    np.testing.assert_array_equal(read_radiograph(encode(COLOURS)).to_uint8(), LUMINANCE)


@pytest.mark.parametrize(("file_format", "mode"), [("PNG", "L"), ("JPEG", "L"), ("JPEG", "RGB")])
def test_jpeg_and_exif_orientation(file_format, mode):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    for options, expected in (({}, BYTES), ({"exif": exif}, np.rot90(BYTES, -1))):
        radiograph = read_radiograph(encode(IMAGE.convert(mode), file_format, quality=95, **options))
        assert radiograph.source_format == file_format
        assert np.abs(radiograph.pixels * 255 - expected).mean() < 2


class TestSixteenBits:
    @pytest.mark.parametrize("top", [1023, 4095, 65535])
    def test_the_used_range_is_windowed(self, top):
        values = (BYTES / 255 * top).astype(np.uint16)
        radiograph = read_radiograph(encode(values))
        low, high = np.quantile(values, [0.001, 0.999])
        assert radiograph.bit_depth == 16
        assert (radiograph.pixels.min(), radiograph.pixels.max()) == (0, 1)
        np.testing.assert_allclose(radiograph.pixels, np.clip((values - low) / (high - low), 0, 1), atol=1e-4)

    @pytest.mark.parametrize("alpha", [False, True])
    def test_colour_keeps_more_than_8_bits(self, alpha):
        values = (np.arange(60 * 40).reshape(60, 40) % 1200).astype(np.uint16)
        channels = np.dstack([values] * 3 + [np.full_like(values, 65535)] * alpha)
        radiograph = read_radiograph(cv2.imencode(".png", channels)[1].tobytes())
        assert radiograph.bit_depth == 16
        np.testing.assert_allclose(radiograph.pixels, read_radiograph(encode(values)).pixels, atol=1e-3)
        assert len(np.unique(radiograph.pixels)) > 1000

    def test_a_burnt_pixel_does_not_darken_the_rest(self):
        values = (BYTES.astype(np.uint16) + 100) * 4
        burnt = values.copy()
        burnt[0, 0] = 65535
        clean, spoilt = (read_radiograph(encode(one)).pixels for one in (values, burnt))
        np.testing.assert_allclose(clean[1:], spoilt[1:], atol=0.02)


def _claim_size(side):
    data = bytearray(encode(IMAGE))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.png is empty"),
        (b"Dear doctor, please find enclosed", "x.png is not a PNG, JPEG or DICOM file"),
        (encode(IMAGE, "BMP"), "not a PNG, JPEG or DICOM"),
        (encode(IMAGE)[:300], "damaged or cut short"),
        (encode(IMAGE, "JPEG")[:-60], "damaged or cut short"),
        (encode(BYTES[:8, :8]), "only 8 x 8 pixels"),
        (encode(IMAGE.convert("CMYK"), "JPEG"), "colour mode CMYK"),
        (encode(np.full((50, 50), 90, np.uint8)), "same gray level everywhere"),
        (encode(np.full((50, 50), 900, np.uint16)), "same gray level everywhere"),
        (encode(np.tile(BYTES[:, :20], (3, 1))), "more than 12 times"),
        (bytes(128) + b"DICM" + bytes(100), "DICOM that does not say"),
        (encode(IMAGE, save_all=True, append_images=[IMAGE.rotate(90), IMAGE.rotate(180)]), "animation of 3 frames"),
        (_claim_size(9000), "more than 40 megapixels"),
        (_claim_size(30000), "more than 40 megapixels"),
    ],
)
def test_refusals_name_file_and_problem(data, message):
    with pytest.raises(RadiographError, match=message) as expected:
        read_radiograph(data, name="x.png")
    with pytest.raises(RadiographError) as found:
        read_levels(data, name="x.png")
    assert str(found.value) == str(expected.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(RadiographError, match=r"nowhere\.png does not exist"):
        read_radiograph(tmp_path / "nowhere.png")
    with pytest.raises(RadiographError, match="cannot be opened"):
        read_radiograph(tmp_path)


ENCODED = [encode(IMAGE), encode(BYTES.astype(np.uint16) * 200), encode(IMAGE, "JPEG")]


def test_levels_are_those_of_the_radiograph():
    dicom = encode_dicom(BYTES.astype(np.uint16) * 9, bits_stored=12)
    for data in (*ENCODED, encode(IMAGE.convert("RGBA")), dicom):
        np.testing.assert_array_equal(read_levels(data), read_radiograph(data).to_uint8())


@settings(max_examples=100, deadline=None)
@given(
    encoded=st.sampled_from(ENCODED),
    cut=st.integers(0, 3000),
    flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=6),
)
def test_mutated_files_end_as_a_radiograph_or_a_radiograph_error(encoded, cut, flips):
    data = bytearray(encoded[: len(encoded) - cut % len(encoded)])
    for place, change in flips:
        data[place % len(data)] ^= change
    with contextlib.suppress(RadiographError):  # any other exception is a failure
        pixels = read_radiograph(bytes(data)).pixels
        assert pixels.dtype == np.float32
        assert np.isfinite(pixels).all()
        assert 0 <= pixels.min() <= pixels.max() <= 1
