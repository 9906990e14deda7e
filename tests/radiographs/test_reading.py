import contextlib
import io
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mura_hf import Radiograph, RadiographError, read_radiograph
from mura_hf.phantoms.dicom_files import encode_dicom
from mura_hf.radiographs import read_levels

RNG = np.random.default_rng(1)
PLANE = cv2.GaussianBlur(RNG.integers(0, 256, (60, 40), dtype=np.uint8), (0, 0), 2)


def _bytes(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _palette():
    image = Image.fromarray(PLANE).convert("P")
    image.putpalette([value for gray in range(256) for value in (gray, gray, gray)])
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PLANE),
        Image.fromarray(PLANE).convert("RGB"),
        Image.fromarray(PLANE).convert("RGBA"),
        Image.fromarray(PLANE).convert("LA"),
        _palette(),
    ],
    ids=["gray", "RGB", "RGBA", "gray and alpha", "palette"],
)
def test_8_bit_png_keeps_its_values(image):
    radiograph = read_radiograph(_bytes(image))
    assert isinstance(radiograph, Radiograph)
    assert (radiograph.bit_depth, radiograph.source_format, radiograph.body_part) == (8, "PNG", None)
    assert radiograph.pixels.dtype == np.float32
    assert radiograph.pixels.shape == PLANE.shape
    np.testing.assert_array_equal(radiograph.to_uint8(), PLANE)
    np.testing.assert_array_equal(np.asarray(radiograph.to_image()), PLANE)


def test_one_bit_png():
    image = Image.fromarray(PLANE > 128)
    np.testing.assert_array_equal(read_radiograph(_bytes(image)).pixels, (PLANE > 128).astype(np.float32))


def test_colour_becomes_luminance():
    colours = RNG.integers(0, 256, (30, 20, 3), dtype=np.uint8)
    expected = colours @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read_radiograph(_bytes(Image.fromarray(colours))).pixels * 255, expected, atol=1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg(mode):
    radiograph = read_radiograph(_bytes(Image.fromarray(PLANE).convert(mode), "JPEG", quality=95))
    assert radiograph.source_format == "JPEG"
    assert np.abs(radiograph.pixels * 255 - PLANE).mean() < 2


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(file_format):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    radiograph = read_radiograph(_bytes(Image.fromarray(PLANE), file_format, exif=exif))
    assert np.abs(radiograph.pixels * 255 - np.rot90(PLANE, -1)).mean() < 4


class TestSixteenBits:
    @pytest.mark.parametrize("top", [1023, 4095, 65535])
    def test_whatever_range_is_used_is_windowed(self, top):
        values = (PLANE.astype(np.float64) / PLANE.max() * top).astype(np.uint16)
        radiograph = read_radiograph(_bytes(Image.fromarray(values)))
        assert radiograph.bit_depth == 16
        assert radiograph.pixels.min() == 0
        assert radiograph.pixels.max() == 1
        low, high = np.quantile(values, [0.001, 0.999])
        expected = np.clip((values - low) / (high - low), 0, 1)
        np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-4)

    @pytest.mark.parametrize("alpha", [False, True])
    def test_colour_keeps_more_than_8_bits(self, alpha):
        values = (np.arange(60 * 40).reshape(60, 40) % 1200).astype(np.uint16)
        channels = np.dstack([values] * 3 + [np.full_like(values, 65535)] * alpha)
        encoded = cv2.imencode(".png", channels)[1].tobytes()
        radiograph = read_radiograph(encoded)
        assert radiograph.bit_depth == 16
        gray = read_radiograph(_bytes(Image.fromarray(values)))
        np.testing.assert_allclose(radiograph.pixels, gray.pixels, atol=1e-3)
        assert len(np.unique(radiograph.pixels)) > 1000

    def test_a_burnt_pixel_does_not_darken_the_rest(self):
        values = np.tile((PLANE.astype(np.uint16) + 100) * 4, (5, 5))
        burnt = values.copy()
        burnt[0, 0] = 65535
        clean, spoilt = (read_radiograph(_bytes(Image.fromarray(one))).pixels for one in (values, burnt))
        np.testing.assert_allclose(clean[1:], spoilt[1:], atol=0.02)


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "x.png is empty"),
            (b"Dear doctor, please find enclosed", "x.png is not a PNG, JPEG or DICOM file"),
            (_bytes(Image.fromarray(PLANE), "BMP"), "not a PNG, JPEG or DICOM"),
            (_bytes(Image.fromarray(PLANE))[:300], "damaged or cut short"),
            (_bytes(Image.fromarray(PLANE), "JPEG")[:-60], "damaged or cut short"),
            (_bytes(Image.fromarray(PLANE[:8, :8])), "only 8 x 8 pixels"),
            (_bytes(Image.fromarray(PLANE).convert("CMYK"), "JPEG"), "colour mode CMYK"),
            (_bytes(Image.new("L", (50, 50), 90)), "one even tone"),
            (_bytes(Image.fromarray(np.tile(PLANE, (20, 1))[:, :20])), "more than 12 times"),
            (_bytes(Image.fromarray(np.full((50, 50), 900, np.uint16))), "one even tone"),
            (bytes(128) + b"DICM" + bytes(100), "DICOM that does not say"),
        ],
    )
    def test_says_what_is_wrong_with_which_file(self, data, message):
        with pytest.raises(RadiographError, match=message):
            read_radiograph(data, name="x.png")

    def test_animation(self):
        frames = [Image.fromarray(np.roll(PLANE, shift, 0)) for shift in range(3)]
        with pytest.raises(RadiographError, match="animation of 3 pictures"):
            read_radiograph(_bytes(frames[0], save_all=True, append_images=frames[1:]), name="x.png")

    def test_too_many_pixels_are_refused_by_the_header_alone(self):
        data = bytearray(_bytes(Image.fromarray(PLANE)))
        data[16:24] = (9000).to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        with pytest.raises(RadiographError, match="more than 40 megapixels"):
            read_radiograph(bytes(data), name="x.png")

    def test_missing_file_and_folder(self, tmp_path):
        with pytest.raises(RadiographError, match=r"nowhere\.png does not exist"):
            read_radiograph(tmp_path / "nowhere.png")
        with pytest.raises(RadiographError, match="cannot be opened"):
            read_radiograph(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        _bytes(Image.fromarray(PLANE)),
        _bytes(Image.fromarray(PLANE).convert("RGBA")),
        _bytes(Image.fromarray(PLANE.astype(np.uint16) * 90)),
        _bytes(Image.fromarray(PLANE), "JPEG"),
        encode_dicom(PLANE.astype(np.uint16) * 9, bits_stored=12),
    ],
    ids=["gray", "alpha", "16 bits", "JPEG", "DICOM"],
)
def test_levels_are_those_of_the_radiograph(data):
    np.testing.assert_array_equal(read_levels(data), read_radiograph(data).to_uint8())


def test_levels_are_refused_alike():
    for data in (b"", b"Dear doctor", _bytes(Image.new("L", (50, 50), 90)), _bytes(Image.fromarray(PLANE[:8, :8]))):
        with pytest.raises(RadiographError) as expected:
            read_radiograph(data, name="x.png")
        with pytest.raises(RadiographError) as found:
            read_levels(data, name="x.png")
        assert str(found.value) == str(expected.value)


def test_path_and_bytes_give_the_same(tmp_path):
    file = tmp_path / "view.png"
    file.write_bytes(_bytes(Image.fromarray(PLANE)))
    for source in (file, str(file), file.read_bytes()):
        np.testing.assert_array_equal(read_radiograph(source).to_uint8(), PLANE)


@settings(max_examples=150, deadline=None)
@given(
    which=st.sampled_from(["gray", "sixteen", "jpeg"]),
    cut=st.integers(0, 3000),
    flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=6),
)
def test_mutated_files_end_as_a_radiograph_or_a_radiograph_error(which, cut, flips):
    encoded = {
        "gray": lambda: _bytes(Image.fromarray(PLANE)),
        "sixteen": lambda: _bytes(Image.fromarray(PLANE.astype(np.uint16) * 200)),
        "jpeg": lambda: _bytes(Image.fromarray(PLANE), "JPEG"),
    }[which]()
    data = bytearray(encoded[: len(encoded) - cut % len(encoded)])
    for place, change in flips:
        data[place % len(data)] ^= change
    with contextlib.suppress(RadiographError):  # any other exception is a failure
        radiograph = read_radiograph(bytes(data))
        assert radiograph.pixels.dtype == np.float32
        assert np.isfinite(radiograph.pixels).all()
        assert radiograph.pixels.min() >= 0
        assert radiograph.pixels.max() <= 1
