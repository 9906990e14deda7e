"""Which DICOM files are radiographs: by transfer syntax, storage class and modality."""

from typing import TYPE_CHECKING

from ..errors import RadiographError

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
