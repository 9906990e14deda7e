import io

import numpy as np
import pydicom
import pytest
from dicom_files import TRANSFER_SYNTAXES, encode_dicom

from mura_hf import RadiographError, read_radiograph

from .films import BYTES, COLOURS, EXACT, FILM, FULL, LUMINANCE, changed, encode, with_syntax


@pytest.mark.parametrize("syntax", EXACT)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_lossless_is_exact(syntax, signed, bits):
    stored = (FILM >> (12 - bits) if bits < 12 else FILM << (bits - 12)).astype(np.int64)
    kind = (np.int8 if signed else np.uint8) if bits == 8 else (np.int16 if signed else np.uint16)
    shift = 1 << (bits - 1) if signed else 0
    data = encode_dicom((stored - shift).astype(kind), syntax=syntax, bits_stored=bits,
                        WindowCenter=(1 << (bits - 1)) - shift, WindowWidth=1 << bits)  # fmt: skip
    radiograph = read_radiograph(data)
    assert (radiograph.bit_depth, radiograph.source_format) == (bits, "DICOM")
    np.testing.assert_allclose(radiograph.pixels * ((1 << bits) - 1), stored, atol=0.01)


@pytest.mark.parametrize(
    ("syntax", "stored", "bits", "tolerance"),
    [
        ("JPEG baseline", BYTES, 8, 6),
        ("JPEG extended", BYTES, 8, 6),
        ("JPEG extended", FILM, 12, 8),
        ("JPEG-LS near-lossless", FILM, 12, 2),
        ("JPEG 2000", FILM, 12, 60),
    ],
)
def test_lossy_is_near(syntax, stored, bits, tolerance):
    top = (1 << bits) - 1
    data = encode_dicom(stored, syntax=syntax, bits_stored=bits, WindowCenter=(top + 1) / 2, WindowWidth=top + 1)
    np.testing.assert_allclose(read_radiograph(data).pixels * top, stored, atol=tolerance + 0.01)


@pytest.mark.parametrize("syntax", EXACT)
def test_colour_becomes_luminance(syntax):
    radiograph = read_radiograph(encode_dicom(COLOURS, syntax=syntax, photometric="RGB"))
    assert np.abs(radiograph.to_uint8().astype(int) - LUMINANCE).max() <= 1


@pytest.mark.parametrize("syntax", ["explicit little endian", "explicit big endian", "RLE"])
def test_ybr_and_planes(syntax):
    luminance_first = np.dstack([BYTES, COLOURS[..., 1:]])
    data = encode_dicom(luminance_first, syntax=syntax, photometric="YBR_FULL")
    np.testing.assert_array_equal(read_radiograph(data).to_uint8(), BYTES)
    if syntax != "RLE":
        planes = encode_dicom(COLOURS, syntax=syntax, photometric="RGB")
        content = np.moveaxis(COLOURS, -1, 0).tobytes()
        planes = changed(planes, PlanarConfiguration=1, PixelData=content)
        assert np.abs(read_radiograph(planes).to_uint8().astype(int) - LUMINANCE).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "RGB"])
@pytest.mark.parametrize("words", [False, True])
def test_8_bits_in_big_endian_words(photometric, words):
    pixels = BYTES if photometric == "MONOCHROME2" else np.dstack([BYTES] * 3)
    dataset = pydicom.dcmread(io.BytesIO(encode_dicom(pixels, syntax="explicit big endian", photometric=photometric)))
    if words:  # PS3.5 section 8.1.2: the first pixel is the lower byte of a word
        dataset["PixelData"].VR = "OW"
        dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    np.testing.assert_array_equal(read_radiograph(buffer.getvalue()).to_uint8(), BYTES)


@pytest.mark.parametrize("pixels", [BYTES, FILM])
@pytest.mark.parametrize(("written", "claimed"), [("implicit", "explicit"), ("explicit", "implicit")])
def test_elements_may_be_written_otherwise_than_the_header_says(pixels, written, claimed):
    data = encode_dicom(pixels, syntax=f"{written} little endian")
    claimed = with_syntax(data, TRANSFER_SYNTAXES[f"{claimed} little endian"].encode())
    np.testing.assert_array_equal(read_radiograph(claimed).pixels, read_radiograph(data).pixels)


def test_frames():
    frames = np.stack([FILM, np.flip(FILM, 1), np.flip(FILM, 0)])
    for syntax in ("explicit little endian", "JPEG lossless", "RLE"):
        data = encode_dicom(frames, syntax=syntax, bits_stored=12, **FULL)
        first = read_radiograph(data, name="x.dcm")
        assert first.warnings == ("x.dcm has 3 frames; only the first was read.",)
        for number, frame in enumerate(frames):
            chosen = read_radiograph(data, frame=number)
            assert chosen.warnings == ()
            np.testing.assert_allclose(chosen.pixels * 4095, frame, atol=0.01)
        for wrong in (3, -1):
            with pytest.raises(RadiographError, match="has frames 0 to 2"):
                read_radiograph(data, frame=wrong)
    with pytest.raises(RadiographError, match="no frame 1"):
        read_radiograph(encode(BYTES), frame=1)
    assert read_radiograph(encode(BYTES), frame=0).pixels.shape == BYTES.shape


def test_without_preamble_or_meta_information():
    data = encode_dicom(FILM, bits_stored=12)
    expected = read_radiograph(data).pixels
    np.testing.assert_array_equal(read_radiograph(data[132:]).pixels, expected)
    for syntax in ("implicit little endian", "explicit little endian", "explicit big endian"):
        dataset = pydicom.dcmread(io.BytesIO(encode_dicom(FILM, syntax=syntax, bits_stored=12)))
        buffer = io.BytesIO()
        implicit, little = dataset.original_encoding
        del dataset.file_meta
        dataset.save_as(buffer, implicit_vr=implicit, little_endian=little)
        np.testing.assert_array_equal(read_radiograph(buffer.getvalue()).pixels, expected)
