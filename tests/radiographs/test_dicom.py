import io
import logging
import warnings
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi, pixel_array

from mura_hf import RadiographError, read_radiograph
from mura_hf.phantoms.dicom_files import TRANSFER_SYNTAXES, encode_dicom
from mura_hf.radiographs import dicom_pixels

RNG = np.random.default_rng(2)
FILM = cv2.GaussianBlur(RNG.random((90, 60)), (0, 0), 2)
FILM = np.rint((FILM - FILM.min()) / np.ptp(FILM) * 4095).astype(np.uint16)
BYTES = (FILM >> 4).astype(np.uint8)
COLOURS = np.dstack([BYTES, np.flip(BYTES, 0), 255 - BYTES])
LUMINANCE = np.asarray(Image.fromarray(COLOURS).convert("L"))
FULL = {"WindowCenter": 2048, "WindowWidth": 4096}
EXACT = [
    name
    for name in TRANSFER_SYNTAXES
    if "near" not in name and name.endswith(("endian", "RLE", "lossless", "first predictor"))
]


def _changed(data, **elements):
    """The file with other elements, written by pydicom; None takes one out."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def _with_syntax(data, syntax):
    """The file with another value of its transfer syntax, which pydicom would not write."""
    place = data.index(b"\x02\x00\x10\x00UI") + 6
    length, syntax = int.from_bytes(data[place : place + 2], "little"), syntax + b"\0" * (len(syntax) % 2)
    return data[:place] + len(syntax).to_bytes(2, "little") + syntax + data[place + 2 + length :]


def _lut(values, first=0, bits=16):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.asarray(values, "<u2").tobytes())
    return [item]


def _png(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


class TestTransferSyntaxes:
    @pytest.mark.parametrize("syntax", EXACT)
    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("bits", [8, 10, 12, 16])
    def test_lossless_is_exact(self, syntax, signed, bits):
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
    def test_lossy_is_near(self, syntax, stored, bits, tolerance):
        top = (1 << bits) - 1
        data = encode_dicom(stored, syntax=syntax, bits_stored=bits, WindowCenter=(top + 1) / 2, WindowWidth=top + 1)
        np.testing.assert_allclose(read_radiograph(data).pixels * top, stored, atol=tolerance + 0.01)

    @pytest.mark.parametrize("syntax", EXACT)
    def test_colour_becomes_luminance(self, syntax):
        radiograph = read_radiograph(encode_dicom(COLOURS, syntax=syntax, photometric="RGB"))
        assert np.abs(radiograph.to_uint8().astype(int) - LUMINANCE).max() <= 1

    @pytest.mark.parametrize("syntax", ["explicit little endian", "explicit big endian", "RLE"])
    def test_ybr_and_planes(self, syntax):
        luminance_first = np.dstack([BYTES, COLOURS[..., 1:]])
        data = encode_dicom(luminance_first, syntax=syntax, photometric="YBR_FULL")
        np.testing.assert_array_equal(read_radiograph(data).to_uint8(), BYTES)
        if syntax != "RLE":
            planes = encode_dicom(COLOURS, syntax=syntax, photometric="RGB")
            content = np.moveaxis(COLOURS, -1, 0).tobytes()
            planes = _changed(planes, PlanarConfiguration=1, PixelData=content)
            assert np.abs(read_radiograph(planes).to_uint8().astype(int) - LUMINANCE).max() <= 1

    def test_palette(self):
        data = encode_dicom(BYTES, photometric="PALETTE COLOR")
        ramps = {"Red": np.arange(256), "Green": np.arange(256)[::-1], "Blue": np.full(256, 40)}
        dataset = pydicom.dcmread(io.BytesIO(data))
        for colour, ramp in ramps.items():
            dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", (ramp.astype("<u2") * 257).tobytes())
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        expected = (0.299 * BYTES + 0.587 * (255 - BYTES) + 0.114 * 40) / 255
        np.testing.assert_allclose(read_radiograph(buffer.getvalue()).pixels, expected, atol=1e-4)

    def test_frames(self):
        frames = np.stack([FILM, np.flip(FILM, 1), np.flip(FILM, 0)])
        for syntax in ("explicit little endian", "JPEG lossless", "RLE"):
            data = encode_dicom(frames, syntax=syntax, bits_stored=12, **FULL)
            first = read_radiograph(data, name="x.dcm")
            assert first.warnings == ("x.dcm holds 3 pictures; only the first was read.",)
            for number, frame in enumerate(frames):
                chosen = read_radiograph(data, frame=number)
                assert chosen.warnings == ()
                np.testing.assert_allclose(chosen.pixels * 4095, frame, atol=0.01)
            for wrong in (3, -1):
                with pytest.raises(RadiographError, match="has pictures 0 to 2"):
                    read_radiograph(data, frame=wrong)
        with pytest.raises(RadiographError, match="no number 1"):
            read_radiograph(_png(BYTES), frame=1)
        assert read_radiograph(_png(BYTES), frame=0).pixels.shape == BYTES.shape

    def test_without_preamble_or_meta_information(self):
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


class TestTones:
    def test_16_bits_are_those_of_a_png(self):
        for values in (FILM, FILM * 16):
            png, dicom = read_radiograph(_png(values)), read_radiograph(encode_dicom(values))
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
        data = _changed(encode_dicom(FILM, bits_stored=12, **FULL), ModalityLUTSequence=_lut(table))
        expected = apply_modality_lut(FILM, pydicom.dcmread(io.BytesIO(data)))
        np.testing.assert_allclose(read_radiograph(data).pixels * 4095, expected, atol=0.01)

    @pytest.mark.parametrize("first", [0, 300, -1000])
    def test_voi_lut_is_preferred_to_the_window(self, first):
        table = (np.arange(3000) / 2999) ** 2 * 65535
        data = encode_dicom(
            FILM, bits_stored=12, WindowCenter=10, WindowWidth=5, RescaleSlope=1, RescaleIntercept=-500
        )
        data = _changed(data, VOILUTSequence=_lut(table, first % 65536))
        item = _lut(table, first % 65536)[0]
        item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [3000, first, 16])
        reference = Dataset()
        reference.VOILUTSequence = [item]
        reference.file_meta = pydicom.dcmread(io.BytesIO(data)).file_meta
        expected = apply_voi(FILM.astype(np.int64) - 500, reference)
        np.testing.assert_allclose(read_radiograph(data).pixels * 65535, expected, atol=0.01)

    def test_a_lut_of_fewer_bits_than_it_says(self):
        table = np.arange(4096)  # 12 bits, called 16
        data = _changed(encode_dicom(FILM, bits_stored=12), VOILUTSequence=_lut(table))
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


class TestRefusals:
    @pytest.mark.parametrize(
        ("elements", "message"),
        [
            ({"Modality": "CT"}, "computed tomography"),
            ({"Modality": "MG"}, "mammography"),
            ({"Modality": "RF"}, "fluoroscopy"),
            ({"Modality": "SECRET"}, "another modality"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "CT Image"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, "Presentation State"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22"}, "SR"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "Encapsulated PDF"),
            ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "DICOMDIR"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "CT"}, "computed tomography"),
            ({"PixelData": None}, "without pixels"),
            ({"Rows": None}, "without a picture"),
            ({"BitsAllocated": 32}, "neither 8 nor 16 bits"),
            ({"BitsStored": 17}, "neither 8 nor 16 bits"),
            ({"HighBit": 15}, "away from the lowest bits"),
            ({"PhotometricInterpretation": "SECRET"}, "colour space"),
            ({"SamplesPerPixel": 3}, "colour space"),
            ({"Rows": 200}, "damaged"),
            ({"Rows": 40000, "Columns": 40000}, "more than 40 megapixels"),
        ],
    )
    def test_says_what_is_wrong(self, elements, message):
        data = _changed(encode_dicom(FILM, bits_stored=12), **elements)
        with pytest.raises(RadiographError, match=rf"^x\.dcm .*{message}") as caught:
            read_radiograph(data, name="x.dcm")
        assert "SECRET" not in str(caught.value)

    @pytest.mark.parametrize(
        ("elements", "missing"),
        [
            ({"Modality": "CR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"}, ()),
            ({"Modality": "RG"}, ()),
            ({}, ("Modality",)),
            ({}, ("SOPClassUID",)),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"}, ()),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.3"}, ("Modality",)),
            ({"SOPClassUID": "1.3.6.1.4.1.5962.99"}, ()),
        ],
    )
    def test_what_is_taken(self, elements, missing):
        data = _changed(encode_dicom(FILM), **elements, **dict.fromkeys(missing))
        assert read_radiograph(data).warnings == ()

    def test_for_processing_is_said(self):
        data = _changed(encode_dicom(FILM), SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1")
        assert "not yet processed" in read_radiograph(data).warnings[0]

    @pytest.mark.parametrize(
        ("syntax", "message"),
        [
            ("1.2.840.10008.1.2.1.99", "deflated"),
            ("1.2.840.10008.1.2.4.100", "MPEG2"),
            ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000"),
            ("1.2.3.4", "a transfer syntax"),
        ],
    )
    def test_other_syntaxes(self, syntax, message):
        data = _with_syntax(encode_dicom(FILM, syntax="RLE"), syntax.encode())
        with pytest.raises(RadiographError, match=message):
            read_radiograph(data)

    @pytest.mark.parametrize("syntax", ["JPEG extended", "JPEG lossless", "JPEG-LS lossless", "JPEG 2000 lossless"])
    def test_a_codestream_that_is_larger_than_the_header_says_is_not_decoded(self, syntax, monkeypatch):
        data = _changed(encode_dicom(FILM, syntax=syntax, bits_stored=12), Rows=FILM.shape[0] - 10)
        for decoder in ("jpeg8_decode", "jpegls_decode", "jpeg2k_decode"):
            monkeypatch.setattr(f"imagecodecs.{decoder}", None)
        with pytest.raises(RadiographError, match="another size or depth"):
            read_radiograph(data)

    @pytest.mark.parametrize("syntax", [name for name in TRANSFER_SYNTAXES if "baseline" not in name])
    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_cut_files(self, syntax, share):
        data = encode_dicom(FILM, syntax=syntax, bits_stored=12)
        with pytest.raises(RadiographError, match="cut short"):
            read_radiograph(data[: int(share * len(data))])

    def test_only_the_wanted_frame_is_decoded(self, monkeypatch):
        data = encode_dicom(np.stack([FILM] * 5), syntax="RLE", bits_stored=12)
        seen = []
        decode = dicom_pixels._run_lengths
        monkeypatch.setattr(dicom_pixels, "_run_lengths", lambda *given: seen.append(1) or decode(*given))
        read_radiograph(data, frame=3)
        assert len(seen) == 1


@pytest.mark.parametrize(("text", "part"), [("WRIST", "wrist"), ("Lt Thumb", "finger"), ("CHEST", None), (None, None)])
def test_body_part(text, part):
    elements = {"BodyPartExamined": text} if text else {}
    assert read_radiograph(encode_dicom(FILM, **elements)).body_part == part
    region = Dataset()
    region.CodeMeaning = "Elbow joint"
    found = read_radiograph(_changed(encode_dicom(FILM, **elements), AnatomicRegionSequence=[region])).body_part
    assert found == (part if text else "elbow")


SECRET = "SECRET^NAME"


def _with_secrets():
    """Files that hold the name of a patient in many elements, whole and broken in many ways."""
    tags = ("PatientName", "PatientID", "PatientComments", "StudyDescription", "InstitutionName", "ProtocolName")
    names = dict.fromkeys(tags, SECRET)
    whole = encode_dicom(FILM, bits_stored=12, **names)
    yield whole
    for keyword in (
        "Modality",
        "BodyPartExamined",
        "PhotometricInterpretation",
        "VOILUTFunction",
        "PresentationLUTShape",
    ):
        yield _changed(whole, **{keyword: SECRET})
    markers = {"WindowCenter": "91919191919", "WindowWidth": "92929292929", "RescaleSlope": "93939393939"}
    numbers = encode_dicom(FILM, bits_stored=12, **names, **markers, NumberOfFrames="94949494949")
    numbers = numbers.replace(b"94949494949", b"1          ")
    for marker in ("91919191919", "92929292929", "93939393939"):
        yield numbers.replace(marker.encode(), SECRET.encode())
    yield numbers.replace(b"1          ", SECRET.encode())
    for uid in (b"1.2.840.10008.1.2.1", b"1.2.840.10008.5.1.4.1.1.1.1"):
        yield whole.replace(uid, SECRET.encode().ljust(len(uid), b"\0"))
    for ending in (b"", b"\n", b"\n\0", b"\n\0\n", b"\0\n"):
        yield _with_syntax(whole, b"1.2.840.10008." + SECRET.encode() + ending)
    place = whole.index(SECRET.encode())
    for length in (b"\x01\x00", b"\xff\xff", b"\x00\x80"):
        yield whole[: place - 2] + length + whole[place:]
    for representation in (b"US", b"SQ", b"ZZ", b"DS", b"UI"):
        yield whole[: place - 4] + representation + whole[place - 2 :]
    for syntax in ("JPEG lossless", "JPEG 2000", "RLE"):
        coded = encode_dicom(FILM, syntax=syntax, bits_stored=12, **names)
        yield coded[:-200] + SECRET.encode() * 10 + coded[-90:]
        yield coded[: len(coded) // 2] + SECRET.encode() * 10


def test_nothing_about_the_patient_comes_out(caplog, capfd):
    files = [*_with_secrets()]
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    capfd.readouterr()
    read = refused = 0
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for data in files:
            assert SECRET.encode() in data
            try:
                radiograph = read_radiograph(data)
                texts, read = [repr(radiograph), *map(str, vars(radiograph).values())], read + 1
            except RadiographError as error:
                texts, refused = [repr(error)], refused + 1
                while (error := error.__cause__ or error.__context__) is not None:
                    texts.append(repr(error))
            assert not any("SECRET" in text for text in texts)
    texts = [str(warning.message) for warning in warned] + [caplog.text, *capfd.readouterr()]
    assert not any("SECRET" in text for text in texts)
    assert read > 3
    assert refused > 3


def test_pydicom_speaks_again_afterwards(caplog):
    read_radiograph(encode_dicom(FILM))
    with pytest.raises(RadiographError):
        read_radiograph(encode_dicom(FILM)[:400])
    logging.getLogger("pydicom").warning("heard")
    assert "heard" in caplog.text


DATA = Path(pydicom.__file__).parent / "data"


def test_every_file_of_pydicom_ends_as_a_radiograph_or_a_sentence():
    read, sentences = set(), {}
    for file in sorted(DATA.rglob("*")):
        if file.is_file() and file.suffix not in (".py", ".pyc", ".json"):
            try:
                assert read_radiograph(file).source_format == "DICOM"
                read.add(file.name)
            except RadiographError as error:
                sentences[file.name] = str(error)
    assert all(sentence.startswith(name) for name, sentence in sentences.items())
    assert {"6154", "6247", "chrArab.dcm", "GDCMJ2K_TextGBR.dcm", "SC_ybr_full_422_uncompressed.dcm"} <= read
    assert len({name for name in read if name.startswith("SC_")}) >= 20


@pytest.mark.parametrize("name", [
    "SC_jpeg_no_color_transform.dcm", "SC_jpeg_no_color_transform_2.dcm", "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_jpeg_app14_dcmd.dcm", "SC_rgb_rle.dcm", "SC_rgb_rle_2frame.dcm",
])  # fmt: skip
def test_colours_of_other_makers_are_those_of_pydicom(name):
    """Files written by dcmtk and gdcm, decoded by pydicom with Pillow."""
    file = DATA / "test_files" / name
    expected = np.asarray(Image.fromarray(pixel_array(file, index=0)).convert("L"))
    np.testing.assert_array_equal(read_radiograph(file).to_uint8(), expected)
