"""Which DICOM files are read, and how their stored pixel values are decoded.

Native pixels are extracted by pydicom. Compressed ones are decoded by imagecodecs: libjpeg-turbo for JPEG (8 and 12
bits, lossless up to 16), CharLS for JPEG-LS, OpenJPEG for JPEG 2000, and its own decoder for RLE. The first three are
continuously fuzzed by their projects and permissively licensed. The size that a codestream claims is compared with the
header first, so that no decoder allocates more than the accepted header allows.
"""

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from ..errors import RadiographError
from .radiograph import MAX_PIXELS, TOO_LARGE
from .windowing import read_element, read_number, read_word

if TYPE_CHECKING:
    from pydicom import Dataset

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG)

RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # baseline; extended, 8 or 12 bits
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")  # any predictor; first-order predictor
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")  # lossless; near-lossless
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")  # lossless; lossless or lossy

_READABLE = (*NATIVE, RLE, *JPEG_LOSSY, *JPEG_LOSSLESS, *JPEG_LS, *JPEG_2000)
_DEFLATED = "1.2.840.10008.1.2.1.99"

# Start-of-frame markers that a transfer syntax allows (ITU-T T.81, table B.1; T.87 for JPEG-LS). Progressive
# JPEG, which a small file can make slow to decode, is not among DICOM's supported syntaxes.
_START_OF_FRAME = {
    **dict.fromkeys(JPEG_LOSSY, (0xC0, 0xC1)),
    **dict.fromkeys(JPEG_LOSSLESS, (0xC3,)),
    **dict.fromkeys(JPEG_LS, (0xF7,)),
}

FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_RADIOGRAPHS = (
    "1.2.840.10008.5.1.4.1.1.1",  # computed radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # digital X-ray for presentation
    FOR_PROCESSING,
)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # prefix of the multi-frame kinds .7.1 to .7.4 too
_MODALITIES = ("CR", "DX", "RG")  # RG: digitised film
_CAPTURED_MODALITIES = (*_MODALITIES, "OT", "SC", "")  # what screenshots and film scanners write

# Modality codes of PS3.3 C.7.3.1.1.1 that may occur in a hospital's archive. Other codes are not quoted in messages,
# because a damaged file may contain anything there.
_OTHER_MODALITIES = {
    "AU": "audio", "BI": "biomagnetic imaging", "BMD": "bone densitometry", "CT": "computed tomography",
    "DOC": "a document", "ECG": "an electrocardiogram", "ES": "endoscopy", "GM": "microscopy",
    "IO": "intra-oral radiography", "IVUS": "intravascular ultrasound", "KO": "a key object selection",
    "MG": "mammography", "MR": "magnetic resonance", "NM": "nuclear medicine", "OP": "ophthalmic photography",
    "OPT": "ophthalmic tomography", "OT": "other", "PR": "a presentation state", "PT": "positron emission tomography",
    "PX": "panoramic X-ray", "REG": "a registration", "RF": "fluoroscopy", "RTDOSE": "a radiotherapy dose",
    "RTIMAGE": "a radiotherapy image", "RTPLAN": "a radiotherapy plan", "RTSTRUCT": "a radiotherapy structure set",
    "SEG": "a segmentation", "SM": "slide microscopy", "SR": "a structured report", "US": "ultrasound",
    "XA": "X-ray angiography", "XC": "photography",
}  # fmt: skip

_GRAY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_LUMINANCE_FIRST = ("YBR_FULL", "YBR_FULL_422")
_COLOURS = (*_LUMINANCE_FIRST, "RGB", "YBR_ICT", "YBR_RCT")  # the JPEG 2000 decoder converts the latter two to RGB

_PIXEL_TAGS = [
    "BitsAllocated", "PlanarConfiguration", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
]  # fmt: skip

_START_OF_IMAGE, _START_OF_SCAN = b"\xff\xd8", b"\xff\xda"  # of JPEG and JPEG-LS
_START_OF_TILE = b"\xff\x90"  # of JPEG 2000
_END_OF_IMAGE = b"\xff\xd9"  # of all three


def check_transfer_syntax(syntax: str | None, name: str) -> None:
    """Checks how a file is encoded, before any of it is decoded.

    Deflated files are refused because one megabyte of them can expand to gigabytes.

    Raises:
        RadiographError: If the transfer syntax is given and not supported.
    """
    if syntax is None or syntax in _READABLE:
        return
    if syntax == _DEFLATED:
        raise RadiographError(f"{name} is deflated DICOM, which is not supported; export it without deflation.")
    raise RadiographError(
        f"{name} is DICOM in {_official_name(syntax) or 'an unknown transfer syntax'}, which is not supported; export "
        "it uncompressed, as JPEG 2000 or as PNG with 16 bits."
    )


def check_kind(header: "Dataset", storage: str, name: str) -> None:
    """Checks that a file contains a radiograph.

    Computed radiography, digital X-ray (for presentation and for processing) and secondary captures are accepted. The
    modality must be CR, DX or RG; for secondary captures also OT or SC. It may be missing if the storage class is one
    of these. Fluoroscopy (RF) is refused because its images differ from those of MURA.

    `storage` is the storage class of the file meta information, used if the elements contain none.

    Raises:
        RadiographError: If it contains something else. The message names it in the standard's words and never quotes
            the file.
    """
    storage = str(read_element(header, "SOPClassUID") or storage)
    modality = read_word(header, "Modality")
    captured = storage.startswith(_SECONDARY_CAPTURE)
    other_class = bool(storage) and not captured and storage not in _RADIOGRAPHS
    kind = _official_name(storage) if other_class else ""  # "" for private storage classes
    allowed: tuple[str, ...] = _MODALITIES
    if captured:
        allowed = _CAPTURED_MODALITIES
    elif storage in _RADIOGRAPHS:
        allowed = (*_MODALITIES, "")
    if not kind and modality in allowed:
        return
    if kind:
        what = "a DICOMDIR" if kind == "Media Storage Directory Storage" else kind.removesuffix(" Storage")
    elif not modality:
        what = "DICOM that does not say what it shows"
    elif modality in _OTHER_MODALITIES:
        what = f"{_OTHER_MODALITIES[modality]} ({modality})"
    else:
        what = "another modality"
    raise RadiographError(f"{name} is not a radiograph but {what}; give computed or digital radiographs (CR, DX).")


def _official_name(uid: str) -> str:
    """Returns the name of a UID of the standard, and "" for any other UID."""
    from pydicom.uid import UID

    found = UID(uid, validation_mode=0)
    return found.name if found.type else ""  # only UIDs of the standard have a type


@dataclass(frozen=True)
class PixelLayout:
    """Layout of the pixels according to the header (PS3.3 C.7.6.3)."""

    syntax: str  # UID of the transfer syntax
    rows: int
    columns: int
    frames: int  # at least 1
    samples: int  # per pixel: 1, or 3 for colours
    photometric: str  # photometric interpretation, such as "MONOCHROME2"
    bits_allocated: int  # 8 or 16
    bits_stored: int
    signed: bool  # values are two's complement
    notes: tuple[str, ...] = ()  # what the header lacks and was assumed

    @classmethod
    def from_header(cls, header: "Dataset", syntax: str, name: str) -> "PixelLayout":
        """Reads and checks the layout.

        Raises:
            RadiographError: If there is no image, or it is too large or has an unsupported layout.
        """

        def number(keyword: str) -> int:
            return int(read_number(header, keyword) or 0)

        notes = []
        rows, columns, allocated = number("Rows"), number("Columns"), number("BitsAllocated")
        if rows < 1 or columns < 1:
            raise RadiographError(
                f"{name} is a DICOM file without an image, or was cut short before it; export the radiograph itself."
            )
        if rows * columns > MAX_PIXELS:
            raise RadiographError(f"{name} ({columns} x {rows}) has {TOO_LARGE}")
        high_bit = read_number(header, "HighBit")
        bits = number("BitsStored") or int(high_bit or -1) + 1 or allocated
        allocated = allocated or (16 if bits > 8 else 8)
        if allocated not in (8, 16) or not 1 <= bits <= allocated:
            raise RadiographError(f"{name} stores its pixels in neither 8 nor 16 bits; export it as PNG with 16 bits.")
        if high_bit not in (None, bits - 1):
            raise RadiographError(
                f"{name} does not store its pixels in the lowest bits, an old form that is not supported; export it "
                "again."
            )
        frames = number("NumberOfFrames")
        if frames < 1 and "NumberOfFrames" in header:
            notes.append("does not say how many frames it has; the first was read.")
        photometric = read_word(header, "PhotometricInterpretation")
        samples = number("SamplesPerPixel") or (3 if photometric in _COLOURS else 1)
        if not photometric:
            photometric = "MONOCHROME2"
            if samples > 1:  # decoders assume YBR for JPEG without colour markers, and convert it to RGB
                photometric = "YBR_FULL" if syntax in JPEG_LOSSY else "RGB"
            notes.append(f"does not give its photometric interpretation; it was read as {photometric}.")
        if photometric not in {1: _GRAY, 3: _COLOURS}.get(samples, ()):
            raise RadiographError(f"{name} uses an unsupported colour space; export it as MONOCHROME2 or as PNG.")
        signed = read_number(header, "PixelRepresentation") == 1
        return cls(syntax, rows, columns, max(1, frames), samples, photometric, allocated, bits, signed, tuple(notes))

    def count_bytes(self) -> int:
        """Returns the uncompressed size of all frames in bytes."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.frames * self.rows * self.columns * samples * self.bits_allocated // 8


def read_stored(data: bytes, layout: PixelLayout, frame: int, name: str) -> tuple[np.ndarray, int]:
    """Decodes one frame.

    Returns:
        uint8 or uint16 `[H, W]`, the bit patterns of a gray image or the luminance of a colour image; and the number
        of lowest bits that they use.

    Raises:
        RadiographError: If there are no pixels, they are not complete, or the compressed image contradicts the header.
    """
    from pydicom import dcmread

    elements = dcmread(io.BytesIO(data), force=True, specific_tags=list(_PIXEL_TAGS))
    if "PixelData" not in elements:
        raise RadiographError(
            f"{name} is a DICOM file without pixels, or was cut short before them; export the radiograph again."
        )
    held = len(elements.PixelData)
    if layout.syntax in NATIVE and held < layout.count_bytes():
        order: Literal["big", "little"] = "big" if layout.syntax == EXPLICIT_BIG else "little"
        was_cut = int.from_bytes(data[-held - 4 : -held], order) > held  # the length that the element claims
        raise RadiographError(
            f"{name} was cut short within its pixels; copy or export it again."
            if was_cut
            else f"{name} holds fewer pixels than its header describes; export it again."
        )
    try:
        stored, precision, is_lossy = _decode(elements, layout, frame, name)
        if stored.shape[:2] != (layout.rows, layout.columns):
            raise ValueError("the decoded image has another size")
    except (RadiographError, MemoryError):
        raise
    except Exception:  # pydicom and the decoders raise dozens of types
        raise RadiographError(
            f"{name} is damaged or was cut short: its pixels cannot be decoded completely; copy or export it again."
        ) from None
    # Bits above Bits Stored do not belong to the pixels (PS3.5 section 8.1.1). They hold overlays, or copies of the
    # sign in codestreams that are wider than the stored bits.
    precision = min(precision, layout.bits_stored)
    top = (1 << precision) - 1
    # Lossy compression can push white just above the maximum; masking alone would make it black.
    if is_lossy and not layout.signed:
        stored = np.where((stored > top) & (stored <= top + top // 8), top, stored)
    stored = np.bitwise_and(stored.astype(np.uint16 if stored.itemsize > 1 else np.uint8, copy=False), top)
    stored = stored.astype(np.uint8 if precision <= 8 else np.uint16, copy=False)
    if stored.ndim == 3 and layout.photometric in _LUMINANCE_FIRST:
        stored = stored[..., 0]
    elif stored.ndim == 3:
        stored = cv2.cvtColor(np.ascontiguousarray(stored), cv2.COLOR_RGB2GRAY)
    return stored, precision


def _decode(elements: "Dataset", layout: PixelLayout, frame: int, name: str) -> tuple[np.ndarray, int, bool]:
    """Decodes a frame. Returns also its precision, and whether compression was lossy."""
    if layout.syntax in NATIVE:
        if elements["PixelData"].is_undefined_length:  # compressed
            raise _another_kind(name)
        return _decode_native(elements, layout, frame), layout.bits_stored, False
    coded = _extract_frame(elements, layout, frame)
    if layout.syntax == RLE:
        if coded[:2] == _START_OF_IMAGE:
            raise _another_kind(name)
        return _decode_rle(coded, layout), layout.bits_stored, False
    if layout.syntax in JPEG_2000:
        return _decode_jpeg_2000(coded, layout, name)
    return _decode_jpeg(coded, layout, name)


def _decode_native(elements: "Dataset", layout: PixelLayout, frame: int) -> np.ndarray:
    from pydicom.pixels import get_decoder

    pixels, _ = get_decoder(layout.syntax).as_array(
        elements.PixelData,
        index=frame,
        raw=True,
        rows=layout.rows,
        columns=layout.columns,
        bits_allocated=layout.bits_allocated,
        bits_stored=layout.bits_stored,
        number_of_frames=layout.frames,
        photometric_interpretation=layout.photometric,
        pixel_representation=0,  # bit patterns, which are the same for signed values
        pixel_keyword="PixelData",
        pixel_vr=elements["PixelData"].VR,  # bytes of OW are swapped in big endian
        planar_configuration=int(read_number(elements, "PlanarConfiguration") or 0),
        samples_per_pixel=layout.samples,
        correct_unused_bits=False,
    )
    return pixels


def _extract_frame(elements: "Dataset", layout: PixelLayout, frame: int) -> bytes:
    from pydicom.encaps import get_frame

    offsets = None
    if elements.get("ExtendedOffsetTable") and elements.get("ExtendedOffsetTableLengths"):
        offsets = (elements.ExtendedOffsetTable, elements.ExtendedOffsetTableLengths)
    return get_frame(elements.PixelData, frame, number_of_frames=layout.frames, extended_offsets=offsets)


def _decode_rle(coded: bytes, layout: PixelLayout) -> np.ndarray:
    import imagecodecs

    planes, dtype = (layout.samples, layout.rows, layout.columns), f"<u{layout.bits_allocated // 8}"
    size = int(np.prod(planes)) * layout.bits_allocated // 8
    decoded = np.frombuffer(imagecodecs.dicomrle_decode(coded, dtype, out=size), dtype).reshape(planes)
    return decoded[0] if layout.samples == 1 else np.moveaxis(decoded, 0, -1)


def _decode_jpeg(coded: bytes, layout: PixelLayout, name: str) -> tuple[np.ndarray, int, bool]:
    import imagecodecs

    if coded[:2] != _START_OF_IMAGE:
        raise _another_kind(name)
    marker, *size, precision, tagged = _parse_jpeg_header(coded)
    if marker not in _START_OF_FRAME[layout.syntax]:
        raise _another_kind(name)
    _check_codestream(size, precision, layout, name)
    _check_end(coded, _START_OF_SCAN)
    if layout.syntax in JPEG_LS:
        return _channels_last(imagecodecs.jpegls_decode(coded), layout), precision, layout.syntax == JPEG_LS[1]
    options: dict[str, Any] = {}
    if layout.syntax in JPEG_LOSSY and layout.samples == 3:
        # libjpeg finds the colour space in JFIF and Adobe markers. Without them the header decides.
        options["colorspace"] = "RGB" if layout.photometric == "RGB" and not tagged else None
        options["outcolorspace"] = "GRAYSCALE"
    return imagecodecs.jpeg8_decode(coded, **options), precision, layout.syntax in JPEG_LOSSY


def _check_end(coded: bytes, start: bytes) -> None:
    """Raises if a codestream has no end marker after the last `start`; libjpeg would fill missing pixels with gray."""
    if coded.find(_END_OF_IMAGE, coded.rfind(start)) < 0:
        raise ValueError("the codestream is cut short")


def _parse_jpeg_header(coded: bytes) -> tuple[int, int, int, int, int, bool]:
    """Parses the header of a JPEG or JPEG-LS codestream (ITU-T T.81, section B.2).

    Returns start-of-frame marker, height, width, components, precision, and if there is a JFIF or Adobe marker.
    """
    offset, tagged = 2, False
    while True:
        prefix, marker, length = struct.unpack_from(">BBH", coded, offset)
        if prefix != 0xFF:
            raise ValueError("a marker is missing")
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, height, width, components = struct.unpack_from(">BHHB", coded, offset + 4)
            return marker, height, width, components, precision, tagged
        tagged |= coded[offset + 4 : offset + 9] in (b"JFIF\x00", b"Adobe")
        offset += 2 + length


def _decode_jpeg_2000(coded: bytes, layout: PixelLayout, name: str) -> tuple[np.ndarray, int, bool]:
    import imagecodecs

    # Some writers wrap the codestream in a JP2 file, whose boxes could ask for more memory than the codestream does.
    start = coded.find(b"\xff\x4f\xff\x51", 0, 65536)
    if start < 0:
        raise _another_kind(name)
    coded = coded[start:]
    # The size marker (ITU-T T.800, section A.5.1)
    length, *fields = struct.unpack_from(">HHIIIIIIIIH", coded, 4)
    right, bottom, left, top, components = *fields[1:5], fields[9]
    depths = [struct.unpack_from(">BBB", coded, 42 + 3 * number) for number in range(min(components, 3))]
    if len(set(depths)) != 1 or depths[0][1:] != (1, 1):
        raise RadiographError(
            f"{name} holds components of different depths or sizes; export it as MONOCHROME2 or PNG."
        )
    precision = (depths[0][0] & 127) + 1
    _check_codestream([bottom - top, right - left, components], precision, layout, name)
    # The marker of the coding style (section A.6.1) ends with the wavelet transform: 1 is the reversible one.
    style = coded.find(b"\xff\x52", 4 + length)
    is_lossy = coded[style + 13 : style + 14] != b"\x01"
    _check_end(coded, _START_OF_TILE)
    return _channels_last(imagecodecs.jpeg2k_decode(coded), layout), precision, is_lossy


def _another_kind(name: str) -> RadiographError:
    return RadiographError(f"{name} holds a compressed image of another kind than its header says; export it again.")


def _check_codestream(size: list[int], precision: int, layout: PixelLayout, name: str) -> None:
    """Compares height, width, components and precision of a codestream with the header."""
    if size != [layout.rows, layout.columns, layout.samples] or not 2 <= precision <= layout.bits_allocated:
        raise RadiographError(
            f"{name} holds a compressed image of another size or depth than its header says; export it again."
        )


def _channels_last(decoded: np.ndarray, layout: PixelLayout) -> np.ndarray:
    planes = (layout.samples, layout.rows, layout.columns)
    return np.moveaxis(decoded, 0, -1) if layout.samples > 1 and decoded.shape == planes else decoded
