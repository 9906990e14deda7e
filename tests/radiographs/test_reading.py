import contextlib
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from dicom_files import encode_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mura_hf import Radiograph, RadiographError, read_radiograph
from mura_hf.radiographs import HEAD_BYTES, detect_format, read_levels

from .films import BYTES, COLOURS, FILM, LUMINANCE, encode

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
    coloured = read_radiograph(encode(COLOURS))
    np.testing.assert_array_equal(coloured.to_uint8(), LUMINANCE)
    assert coloured.is_coloured
    for file_format in ("PNG", "JPEG"):
        assert not read_radiograph(encode(IMAGE.convert("RGB"), file_format)).is_coloured


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [("PNG", "L"), ("JPEG", "L"), ("JPEG", "RGB"), ("TIFF", "L"), ("TIFF", "RGB"), ("BMP", "L"), ("WebP", "RGB")],
)
def test_formats_and_exif_orientation(file_format, mode):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    for options, expected in (({}, BYTES), ({"exif": exif}, np.rot90(BYTES, -1))):
        if file_format == "BMP" and options:
            continue  # has no such item
        data = encode(IMAGE.convert(mode), file_format, quality=95, **options)
        radiograph = read_radiograph(data)
        assert radiograph.source_format == file_format == detect_format(data[:HEAD_BYTES])
        assert np.abs(radiograph.pixels * 255 - expected).mean() < 2


@pytest.mark.parametrize(
    "data",
    [
        encode(BYTES), encode(IMAGE.convert("RGB"), "JPEG"), encode(FILM), encode(COLOURS), encode(IMAGE, "TIFF"),
        encode_dicom(FILM, bits_stored=12), encode_dicom(FILM, syntax="JPEG 2000 lossless", bits_stored=12),
    ],
)  # fmt: skip
def test_large_views_are_reduced_if_wanted(data):
    whole = read_radiograph(data, name="a")
    for enough in (None, BYTES.size, BYTES.size + 1):
        same = read_radiograph(data, name="a", max_pixels=enough)
        np.testing.assert_array_equal(same.pixels, whole.pixels)
        assert same.warnings == whole.warnings
    for factor in (2, 3):
        reduced = read_radiograph(data, name="a", max_pixels=BYTES.size // factor**2)
        blocks = whole.pixels.reshape(90 // factor, factor, 60 // factor, factor)
        np.testing.assert_allclose(reduced.pixels, blocks.mean((1, 3)), atol=1e-6)
        assert reduced.warnings[-1].startswith(
            f"a was reduced from 60 x 90 to {60 // factor} x {90 // factor} pixels to save memory"
        )
    assert read_radiograph(data, max_pixels=BYTES.size - 1).pixels.size < BYTES.size


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize(
    ("file_format", "options"),
    [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("WebP", {"lossless": True})],
)
def test_lossless_formats_agree_with_png(file_format, options, mode):
    image = Image.fromarray(COLOURS).convert(mode)
    expected = read_radiograph(encode(image)).pixels
    if (file_format, mode) == ("WebP", "P"):  # is stored as colours
        image = image.convert("RGB")
    np.testing.assert_array_equal(read_radiograph(encode(image, file_format, **options)).pixels, expected)


class TestSixteenBits:
    @pytest.mark.parametrize(
        "options", [{}, {"compression": "tiff_adobe_deflate"}, {"tiffinfo": {274: 6}}, {"tiffinfo": {262: 0}}]
    )
    def test_tiff_agrees_with_png(self, options):
        expected = read_radiograph(encode(FILM)).pixels
        if 274 in options.get("tiffinfo", {}):
            expected = np.rot90(expected, -1)
        if 262 in options.get("tiffinfo", {}):  # white is zero
            expected = 1 - expected
        radiograph = read_radiograph(encode(FILM, "TIFF", **options))
        assert (radiograph.bit_depth, radiograph.source_format) == (16, "TIFF")
        np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)

    def test_signed_and_colour_tiff(self):
        expected = read_radiograph(encode(FILM)).pixels
        signed = encode((FILM.astype(np.int16) - 2000).view(np.uint16), "TIFF", tiffinfo={339: 2})
        colours = cv2.imencode(".tif", np.dstack([FILM] * 3))[1].tobytes()
        for data in (signed, colours):
            np.testing.assert_allclose(read_radiograph(data).pixels, expected, atol=1e-3)
        for options in ({}, {"compression": "tiff_lzw"}):
            data = encode(BYTES ^ 128, "TIFF", tiffinfo={339: 2}, **options)  # two's complement of 8 bits
            np.testing.assert_array_equal(read_radiograph(data).to_uint8(), BYTES)

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
        (b"Dear doctor, please find enclosed", "x.png is not a PNG, JPEG, TIFF, BMP, WebP or DICOM file"),
        (b"\0\0\0\x18ftypheic" + bytes(200), "x.png is HEIC, which is not supported; save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypavif" + bytes(200), "x.png is AVIF, which is not supported; save it as JPEG or PNG"),
        (encode(IMAGE, "GIF"), "x.png is GIF, which is not supported; save it as JPEG or PNG"),
        (b"%PDF-1.7\n", "x.png is PDF, which is not supported; save it as JPEG or PNG"),
        (b"PK\3\4" + bytes(99), "x.png is an archive, which is not supported; unpack it"),
        (bytes(344) + b"n+1\0", r"x.png is a volume \(NRRD or NIfTI\)"),
        (encode(IMAGE, "TIFF", save_all=True, append_images=[IMAGE]), "several pages or frames"),
        (encode(IMAGE, "WebP", save_all=True, append_images=[IMAGE.rotate(90)]), "several pages or frames"),
        (encode(IMAGE.convert("F"), "TIFF"), "colour mode F"),
        (encode(IMAGE, "TIFF")[:-900], "damaged or cut short"),
        (encode(IMAGE, "BMP")[:-900], "damaged or cut short"),
        (b"II*\0" + bytes(100), "x.png is a TIFF file with a damaged header"),
        (encode(IMAGE)[:300], "damaged or cut short"),
        (encode(IMAGE, "JPEG")[:-60], "damaged or cut short"),
        (encode(BYTES[:8, :8]), "only 8 x 8 pixels"),
        (encode(IMAGE.convert("CMYK"), "JPEG"), "colour mode CMYK"),
        (encode(np.full((50, 50), 90, np.uint8)), "same gray level everywhere"),
        (encode(np.full((50, 50), 900, np.uint16)), "same gray level everywhere"),
        (encode(np.tile(BYTES[:, :20], (3, 1))), "more than 12 times"),
        (bytes(128) + b"DICM" + bytes(100), "DICOM that does not say"),
        (encode(IMAGE, save_all=True, append_images=[IMAGE.rotate(90), IMAGE.rotate(180)]), "several pages or frames"),
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


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.png", r"^nowhere\.png does not exist"),
        ("", r"is a folder, not a view; give its files"),
        ("./", r"is a folder, not a view; give its files"),
        ("https://host/wrist.png", r"^wrist\.png is a URL, and nothing is downloaded"),
        ("s3://bucket/wrist.png", r"^wrist\.png is a URL"),
        ("FILE:///wrist.png", r"^wrist\.png is a URL"),
        ("data:image/png;base64," + 9000 * "A", "is a URL"),
    ],
)
def test_what_is_not_a_file(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    for read in (read_radiograph, read_levels):
        for form in (source, Path(source)):
            with pytest.raises(RadiographError, match=message) as found:
                read(form)
            assert len(str(found.value)) < 200
    Path("data:1.png").write_bytes(b"x")
    with pytest.raises(RadiographError, match="is not a"):
        read_radiograph("data:1.png")


ENCODED = [encode(BYTES.astype(np.uint16) * 200), encode(FILM, "TIFF", compression="tiff_lzw")] + [
    encode(IMAGE, file_format) for file_format in ("PNG", "JPEG", "TIFF", "BMP", "WebP")
]


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


@pytest.mark.parametrize("coloured", [False, True])
def test_odd_metadata_of_good_pixels_is_ignored(coloured):
    picture = np.stack([BYTES, BYTES // 2, 255 - BYTES], 2) if coloured else BYTES
    for file_format, end, odd in (
        ("PNG", 33, b"\0\0\0\1gAMA\0" + zlib.crc32(b"gAMA\0").to_bytes(4, "big")),  # too short
        ("JPEG", 2, b"\xff\xed\0\x14Photoshop 3.0\x008BIM"),  # cut short
    ):
        good = encode(picture, file_format)
        plain, found = read_radiograph(good), read_radiograph(good[:end] + odd + good[end:])
        np.testing.assert_array_equal(found.pixels, plain.pixels)
        assert found.is_coloured == plain.is_coloured == coloured
