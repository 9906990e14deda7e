"""Which DICOM files are radiographs: by transfer syntax, storage class and modality.

The stored pixels of one picture of a DICOM file.

Native pixels are cut out by pydicom. Compressed ones are decoded by imagecodecs: libjpeg-turbo for every JPEG (8 and
12 bits, lossless to 16), CharLS for JPEG-LS, OpenJPEG for JPEG 2000 and its own decoder for RLE. The first three are
fuzzed by their makers all year and permissively licensed. What a codestream says of its own size is compared with the
file's header first, so that no decoder allocates more than the header was accepted for.
"""

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..errors import RadiographError
from .radiograph import check_size

if TYPE_CHECKING:
    from pydicom import Dataset

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG)

RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # baseline; extended, 8 or 12 bits
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")  # any predictor; the first
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")  # lossless; near-lossless
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")  # lossless; either

_DEFLATED = "1.2.840.10008.1.2.1.99"
_READABLE = (*NATIVE, RLE, *JPEG_LOSSY, *JPEG_LOSSLESS, *JPEG_LS, *JPEG_2000)

_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_RADIOGRAPHS = (
    "1.2.840.10008.5.1.4.1.1.1",  # computed radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # digital X-ray for presentation
    _FOR_PROCESSING,
)
_SECONDARY_CAPTURE = ("1.2.840.10008.5.1.4.1.1.7",)  # and, below it, its multi-frame kinds .7.1 to .7.4
_MODALITIES = ("CR", "DX", "RG")  # RG: a film, digitised
_CAPTURED_MODALITIES = (*_MODALITIES, "OT", "SC", "")  # what screenshots and film scanners write

# The codes of PS3.3 C.7.3.1.1.1 that a hospital's archive may hold; any other is called "another modality", for a
# broken file may hold anything there.
_OTHERS = {
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

_DIRECTORY = "Media Storage Directory Storage"
_WAY_OUT = "give computed or digital radiographs (CR, DX)"


def check_transfer_syntax(syntax: str | None, name: str) -> None:
    """Refuses a file by how it is encoded, before any of it is decoded.

    Deflated files are refused because a megabyte of them can hold gigabytes.

    Raises:
        RadiographError: If the syntax is given and not one that is read here.
    """
    if syntax is None or syntax in _READABLE:
        return
    if syntax == _DEFLATED:
        raise RadiographError(f"{name} is deflated DICOM, which is not read; export it without deflation.")
    raise RadiographError(
        f"{name} is DICOM in {_official_name(syntax, 'a transfer syntax')}, which is not read; export it "
        "uncompressed, as JPEG 2000 or as PNG with 16 bits."
    )


def check_kind(header: "Dataset", storage: str, name: str) -> None:
    """Refuses a file by what it holds.

    Taken are computed radiography, digital X-ray (for presentation and for processing) and secondary capture. The
    modality is CR, DX or RG, or absent; of secondary captures it may be OT too. Fluoroscopy (RF) is not taken: its
    pictures are unlike the films that MURA holds.

    Args:
        header: The file's elements.
        storage: The storage class of its meta information, used where the elements name none.
        name: Of the file, for messages.

    Raises:
        RadiographError: If it is something else; the message says what, in words of the standard and never of the
            file.
    """
    storage = str(header.get("SOPClassUID") or storage)
    modality = str(header.get("Modality") or "").strip().upper()
    captured = storage.startswith(_SECONDARY_CAPTURE)
    if storage and not captured and storage not in _RADIOGRAPHS:
        kind = _official_name(storage, "")
        if kind or modality not in _MODALITIES:
            raise RadiographError(f"{name} is no radiograph but {_in_words(modality, kind)}; {_WAY_OUT}.")
    allowed = _CAPTURED_MODALITIES if captured else (*_MODALITIES, "") if storage else _MODALITIES
    if modality not in allowed:
        raise RadiographError(f"{name} is no radiograph but {_in_words(modality, '')}; {_WAY_OUT}.")


def is_for_processing(header: "Dataset") -> bool:
    """Whether the values are a detector's, before the maker's processing for display."""
    intent = str(header.get("PresentationIntentType") or "").strip().upper()
    return header.get("SOPClassUID") == _FOR_PROCESSING or intent == "FOR PROCESSING"


def _in_words(modality: str, storage_name: str) -> str:
    if storage_name:
        return "a DICOMDIR" if storage_name == _DIRECTORY else storage_name.removesuffix(" Storage")
    if not modality:
        return "DICOM that does not say what it shows"
    return f"{_OTHERS[modality]} ({modality})" if modality in _OTHERS else "another modality"


def _official_name(uid: str, otherwise: str) -> str:
    """The standard's name of a UID; of a UID that the standard does not know, `otherwise`."""
    from pydicom.uid import UID

    found = UID(uid, validation_mode=0)
    return found.name if found.type else otherwise  # only what is in the standard's list has a type


if TYPE_CHECKING:
    from pydicom import Dataset

_GRAY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_LUMINANCE_FIRST = ("YBR_FULL", "YBR_FULL_422")
_RED_GREEN_BLUE = ("RGB", "YBR_ICT", "YBR_RCT")  # the latter two are undone by the JPEG 2000 decoder

# Start-of-frame markers that a transfer syntax allows (ITU-T T.81, table B.1; T.87 for JPEG-LS). Progressive JPEG is
# none of DICOM's, and is how a small file costs much time.
_STARTS_OF_FRAME = {
    **dict.fromkeys(JPEG_LOSSY, (0xC0, 0xC1)),
    **dict.fromkeys(JPEG_LOSSLESS, (0xC3,)),
    **dict.fromkeys(JPEG_LS, (0xF7,)),
}


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels of a file are laid out, from its header (PS3.3 C.7.6.3).

    Attributes:
        syntax: UID of the transfer syntax.
        rows: Height in pixels.
        columns: Width in pixels.
        frames: Pictures in the file, at least 1.
        samples: Values a pixel: 1, or 3 of a colour picture.
        photometric: What they mean, such as "MONOCHROME2".
        bits_allocated: Bits of a value's place: 8 or 16.
        bits_stored: Bits of it that are used.
        signed: Whether they are two's complement.
    """

    syntax: str
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool

    @classmethod
    def from_header(cls, header: "Dataset", syntax: str, name: str) -> "PixelLayout":
        """Reads and checks the layout.

        Raises:
            RadiographError: If the file holds no picture, one too large, or one laid out as no radiograph is.
        """
        if not header.get("Rows") or not header.get("Columns"):
            raise RadiographError(f"{name} is a DICOM file without a picture; export the radiograph itself.")
        layout = cls(
            syntax=syntax,
            rows=int(header.Rows),
            columns=int(header.Columns),
            frames=max(1, int(header.get("NumberOfFrames") or 1)),
            samples=int(header.get("SamplesPerPixel") or 1),
            photometric=str(header.PhotometricInterpretation).strip().upper(),
            bits_allocated=int(header.BitsAllocated),
            bits_stored=int(header.get("BitsStored") or header.BitsAllocated),
            signed=header.get("PixelRepresentation") == 1,
        )
        check_size(name, layout.columns, layout.rows)
        high_bit = header.get("HighBit")
        if layout.bits_allocated not in (8, 16) or not 1 <= layout.bits_stored <= layout.bits_allocated:
            raise RadiographError(f"{name} stores its pixels in neither 8 nor 16 bits; export it as PNG with 16 bits.")
        if high_bit is not None and high_bit != layout.bits_stored - 1:
            raise RadiographError(
                f"{name} stores its pixels away from the lowest bits, an old form that is not read; export it again."
            )
        known = _GRAY if layout.samples == 1 else (*_LUMINANCE_FIRST, *_RED_GREEN_BLUE) if layout.samples == 3 else ()
        if layout.photometric not in known:
            raise RadiographError(
                f"{name} keeps its pixels in a colour space that is not read; export it as MONOCHROME2 or as PNG."
            )
        return layout

    @property
    def is_gray(self) -> bool:
        """Whether a pixel is one value."""
        return self.samples == 1


def read_stored(data: "Dataset", layout: PixelLayout, frame: int, name: str) -> tuple[np.ndarray, int]:
    """Decodes one picture.

    Args:
        data: With the pixel data.
        layout: Of its header.
        frame: Which picture, from 0.
        name: Of the file, for messages.

    Returns:
        uint8 or uint16 `[H, W]`, the bit patterns of a gray picture or the luminance of a colour one; and how many of
        the lowest bits are a pattern.

    Raises:
        RadiographError: If the compressed picture is not as the header says.
        Exception: Any, of damaged data.
    """
    if layout.syntax in NATIVE:
        stored, precision = _native(data, layout, frame), layout.bits_stored
    else:
        from pydicom.encaps import get_frame

        extended = None
        if data.get("ExtendedOffsetTable") and data.get("ExtendedOffsetTableLengths"):
            extended = (data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths)
        coded = get_frame(data.PixelData, frame, number_of_frames=layout.frames, extended_offsets=extended)
        if layout.syntax == RLE:
            stored, precision = _run_lengths(coded, layout), layout.bits_stored
        elif layout.syntax in JPEG_2000:
            stored, precision = _jpeg_2000(coded, layout, name)
        else:
            stored, precision = _jpeg(coded, layout, name)
    if layout.signed:
        # Some codestreams are wider than the stored bits, and keep the sign in these or in their own highest bit:
        # the stored bits are the same.
        precision = min(precision, layout.bits_stored)
    if stored.ndim == 3:
        stored = _luminance(stored, layout)
    if stored.shape != (layout.rows, layout.columns):
        raise ValueError("the decoded picture has another size")
    patterns = stored.astype(np.uint8 if precision <= 8 else np.uint16, copy=False)
    return np.bitwise_and(patterns, (1 << precision) - 1), precision


def _native(data: "Dataset", layout: PixelLayout, frame: int) -> np.ndarray:
    from pydicom.pixels import get_decoder

    options = {
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "number_of_frames": layout.frames,
        "photometric_interpretation": layout.photometric,
        "pixel_representation": 0,  # patterns are wanted, and those of signed values are the same
        "planar_configuration": data.get("PlanarConfiguration") or 0,
        "samples_per_pixel": layout.samples,
        "correct_unused_bits": False,
    }
    pixels, _ = get_decoder(layout.syntax).as_array(data, index=frame, raw=True, **options)
    return pixels


def _run_lengths(coded: bytes, layout: PixelLayout) -> np.ndarray:
    import imagecodecs

    planes, kind = (layout.samples, layout.rows, layout.columns), f"<u{layout.bits_allocated // 8}"
    size = int(np.prod(planes)) * layout.bits_allocated // 8
    decoded = np.frombuffer(imagecodecs.dicomrle_decode(coded, kind, out=size), kind).reshape(planes)
    return decoded[0] if layout.is_gray else np.moveaxis(decoded, 0, -1)


def _jpeg(coded: bytes, layout: PixelLayout, name: str) -> tuple[np.ndarray, int]:
    import imagecodecs

    marker, *size, precision, tagged = _jpeg_header(coded)
    if marker not in _STARTS_OF_FRAME[layout.syntax]:
        raise ValueError("the codestream is of another kind")
    _compare(size, precision, layout, name)
    # libjpeg fills what is missing with gray and says nothing
    if not coded.rstrip(b"\x00\xff").endswith(b"\xff\xd9"):
        raise ValueError("the codestream is cut short")
    if layout.syntax in JPEG_LS:
        return _pixels_last(imagecodecs.jpegls_decode(coded), layout), precision
    if layout.syntax in JPEG_LOSSLESS or layout.is_gray:
        return imagecodecs.jpeg8_decode(coded), precision
    # JFIF and Adobe markers tell libjpeg which colours it has; without them the file's header does
    colours = "RGB" if layout.photometric == "RGB" and not tagged else None
    return imagecodecs.jpeg8_decode(coded, colorspace=colours, outcolorspace="GRAYSCALE"), precision


def _jpeg_header(coded: bytes) -> tuple[int, int, int, int, int, bool]:
    """Start-of-frame marker, height, width, components and precision of a JPEG or JPEG-LS codestream, and whether it
    carries a JFIF or Adobe marker (ITU-T T.81, section B.2).
    """
    if coded[:2] != b"\xff\xd8":
        raise ValueError("no JPEG codestream")
    place, tagged = 2, False
    while True:
        prefix, marker, length = struct.unpack_from(">BBH", coded, place)
        if prefix != 0xFF:
            raise ValueError("no marker where one must be")
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, height, width, components = struct.unpack_from(">BHHB", coded, place + 4)
            return marker, height, width, components, precision, tagged
        tagged |= coded[place + 4 : place + 9] in (b"JFIF\x00", b"Adobe")
        place += 2 + length


def _jpeg_2000(coded: bytes, layout: PixelLayout, name: str) -> tuple[np.ndarray, int]:
    import imagecodecs

    # Some writers wrap the codestream in a JP2 file, whose boxes could ask for more than the codestream does.
    start = coded.find(b"\xff\x4f\xff\x51", 0, 65536)
    if start < 0:
        raise ValueError("no JPEG 2000 codestream")
    # The size marker (ITU-T T.800, section A.5.1)
    fields = struct.unpack_from(">HHIIIIIIIIH", coded, start + 4)
    right, bottom, left, top, components = *fields[2:6], fields[10]
    depths = [struct.unpack_from(">BBB", coded, start + 42 + 3 * number) for number in range(min(components, 3))]
    if len(set(depths)) != 1 or depths[0][1:] != (1, 1):
        raise ValueError("the components differ in depth or size")
    precision = (depths[0][0] & 127) + 1
    _compare([bottom - top, right - left, components], precision, layout, name)
    return _pixels_last(imagecodecs.jpeg2k_decode(coded[start:]), layout), precision


def _compare(size: list[int], precision: int, layout: PixelLayout, name: str) -> None:
    """Compares height, width, components and precision of a codestream with the header."""
    if size != [layout.rows, layout.columns, layout.samples] or not 2 <= precision <= layout.bits_allocated:
        raise RadiographError(
            f"{name} holds a compressed picture of another size or depth than its header says; export it again."
        )


def _pixels_last(decoded: np.ndarray, layout: PixelLayout) -> np.ndarray:
    planes = (layout.samples, layout.rows, layout.columns)
    return np.moveaxis(decoded, 0, -1) if not layout.is_gray and decoded.shape == planes else decoded


def _luminance(colours: np.ndarray, layout: PixelLayout) -> np.ndarray:
    if layout.photometric in _LUMINANCE_FIRST:
        return colours[..., 0]
    return cv2.cvtColor(np.ascontiguousarray(colours), cv2.COLOR_RGB2GRAY)


def parse_with_pixels(data: bytes) -> "Dataset":
    """The pixel data and what pydicom needs to cut one picture out of them."""
    from pydicom import dcmread

    return dcmread(io.BytesIO(data), force=True, specific_tags=list(_PIXEL_TAGS))


_PIXEL_TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "PixelData",
)  # fmt: skip
