import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import TRANSFER_SYNTAXES, encode_dicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from mura_hf import RadiographError, read_radiograph
from mura_hf.radiographs import dicom_pixels
from mura_hf.radiographs.radiograph import hash_patient

from .films import FILM, changed, with_syntax


class TestRefusals:
    @pytest.mark.parametrize(
        ("elements", "message"),
        [
            ({"Modality": "CT"}, "computed tomography"),
            ({"Modality": "RF"}, "fluoroscopy"),
            ({"Modality": "SECRET"}, "another modality"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "CT Image"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, "Presentation State"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "Encapsulated PDF"),
            ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "DICOMDIR"),
            ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "CT"}, "computed tomography"),
            ({"PixelData": None}, "without pixels"),
            ({"Rows": None}, "without an image"),
            ({"BitsAllocated": 32}, "neither 8 nor 16 bits"),
            ({"BitsStored": 17}, "neither 8 nor 16 bits"),
            ({"HighBit": 15}, "in the lowest bits"),
            ({"PhotometricInterpretation": "SECRET"}, "colour space"),
            ({"SamplesPerPixel": 3}, "colour space"),
            ({"Rows": 200}, "holds fewer pixels than its header describes"),
            ({"Rows": 40000, "Columns": 40000}, "more than 40 megapixels"),
        ],
    )
    def test_messages_name_file_and_problem(self, elements, message):
        data = changed(encode_dicom(FILM, bits_stored=12), **elements)
        with pytest.raises(RadiographError, match=rf"^x\.dcm .*{message}") as caught:
            read_radiograph(data, name="x.dcm")
        assert "SECRET" not in str(caught.value)

    @pytest.mark.parametrize(
        "elements",
        [
            {"Modality": "CR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"},
            {"Modality": "RG"},
            {"Modality": None},
            {"SOPClassUID": None},
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"},
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.3", "Modality": None},
            {"SOPClassUID": "1.3.6.1.4.1.5962.99"},
        ],
    )
    def test_accepted_kinds(self, elements):
        assert read_radiograph(changed(encode_dicom(FILM), **elements)).warnings == ()

    @pytest.mark.parametrize(
        "elements", [{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, {"PresentationIntentType": "FOR PROCESSING"}]
    )
    def test_for_processing_is_a_warning(self, elements):
        assert "not yet processed" in read_radiograph(changed(encode_dicom(FILM), **elements)).warnings[0]

    @pytest.mark.parametrize(
        ("syntax", "message"),
        [
            ("1.2.840.10008.1.2.1.99", "deflated"),
            ("1.2.840.10008.1.2.4.100", "MPEG2"),
            ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000"),
            ("1.2.3.4", "an unknown transfer syntax"),
        ],
    )
    def test_other_syntaxes(self, syntax, message):
        data = with_syntax(encode_dicom(FILM, syntax="RLE"), syntax.encode())
        with pytest.raises(RadiographError, match=message):
            read_radiograph(data)

    @pytest.mark.parametrize("syntax", ["JPEG extended", "JPEG lossless", "JPEG-LS lossless", "JPEG 2000 lossless"])
    def test_a_codestream_that_is_larger_than_the_header_says_is_not_decoded(self, syntax, monkeypatch):
        data = changed(encode_dicom(FILM, syntax=syntax, bits_stored=12), Rows=FILM.shape[0] - 10)
        for decoder in ("jpeg8_decode", "jpegls_decode", "jpeg2k_decode"):
            monkeypatch.setattr(f"imagecodecs.{decoder}", None)
        with pytest.raises(RadiographError, match="another size or depth"):
            read_radiograph(data)

    @pytest.mark.parametrize("syntax", [name for name in TRANSFER_SYNTAXES if "baseline" not in name])
    def test_cut_files(self, syntax):
        data = encode_dicom(FILM, syntax=syntax, bits_stored=12)
        for share in (0.3, 0.9):
            with pytest.raises(RadiographError, match="cut short"):
                read_radiograph(data[: int(share * len(data))])

    def test_only_the_requested_frame_is_decoded(self, monkeypatch):
        data = encode_dicom(np.stack([FILM] * 5), syntax="RLE", bits_stored=12)
        decoded = []
        decode = dicom_pixels._decode_rle
        monkeypatch.setattr(dicom_pixels, "_decode_rle", lambda *given: decoded.append(1) or decode(*given))
        read_radiograph(data, frame=3)
        assert len(decoded) == 1


@pytest.mark.parametrize(("text", "part"), [("WRIST", "wrist"), ("Lt Thumb", "finger"), ("CHEST", None), (None, None)])
def test_body_part(text, part):
    elements = {"BodyPartExamined": text} if text else {}
    assert read_radiograph(encode_dicom(FILM, **elements)).body_part == part
    region = Dataset()
    region.CodeMeaning = "Elbow joint"
    found = read_radiograph(changed(encode_dicom(FILM, **elements), AnatomicRegionSequence=[region])).body_part
    assert found == (part if text else "elbow")


@pytest.mark.parametrize("keyword", ["ImageLaterality", "Laterality"])
@pytest.mark.parametrize(("code", "side"), [("L", "left"), ("R ", "right"), ("U", None), ("", None)])
def test_side_and_patient(keyword, code, side):
    radiograph = read_radiograph(encode_dicom(FILM, PatientID="ab 12", **{keyword: code}))
    assert (radiograph.side, radiograph.patient_hash) == (side, hash_patient("ab 12 "))


SECRET = "SECRET^NAME"


def _with_secrets():
    """Files that hold the name of a patient in many elements, whole and broken in many ways."""
    tags = ("PatientName", "PatientID", "PatientComments", "StudyDescription", "InstitutionName", "ProtocolName")
    names = dict.fromkeys(tags, SECRET)
    whole = encode_dicom(FILM, bits_stored=12, **names)
    yield whole
    words = ("Modality", "BodyPartExamined", "PhotometricInterpretation", "VOILUTFunction", "PresentationLUTShape")
    for keyword in words:
        yield changed(whole, **{keyword: SECRET})
    markers = {"WindowCenter": "91919191919", "WindowWidth": "92929292929", "RescaleSlope": "93939393939"}
    numbers = encode_dicom(FILM, bits_stored=12, **names, **markers, NumberOfFrames="94949494949")
    numbers = numbers.replace(b"94949494949", b"1          ")
    for marker in ("91919191919", "92929292929", "93939393939"):
        yield numbers.replace(marker.encode(), SECRET.encode())
    yield numbers.replace(b"1          ", SECRET.encode())
    for uid in (b"1.2.840.10008.1.2.1", b"1.2.840.10008.5.1.4.1.1.1.1"):
        yield whole.replace(uid, SECRET.encode().ljust(len(uid), b"\0"))
    for ending in (b"", b"\n", b"\n\0", b"\n\0\n", b"\0\n"):
        yield with_syntax(whole, b"1.2.840.10008." + SECRET.encode() + ending)
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


def test_pydicom_logs_again_afterwards(caplog):
    read_radiograph(encode_dicom(FILM))
    with pytest.raises(RadiographError):
        read_radiograph(encode_dicom(FILM)[:400])
    logging.getLogger("pydicom").warning("heard")
    assert "heard" in caplog.text


DATA = Path(pydicom.__file__).parent / "data"


def test_every_file_of_pydicom_ends_as_a_radiograph_or_an_error():
    read, messages = set(), {}
    for file in sorted(DATA.rglob("*")):
        if file.is_file() and file.suffix not in (".py", ".pyc", ".json"):
            try:
                assert read_radiograph(file).source_format == "DICOM"
                read.add(file.name)
            except RadiographError as error:
                messages[file.name] = str(error)
    assert all(message.startswith(name) for name, message in messages.items())
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
