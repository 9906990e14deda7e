"""`read_dicom`: one DICOM file into a `Radiograph`.

Read are computed and digital radiography and secondary captures, uncompressed or in RLE, JPEG, JPEG-LS and JPEG 2000;
`dicom_kinds` says which exactly, `dicom_pixels` how they are decoded, `dicom_tones` how values become tones.

Only the elements listed here are looked at; of the patient's identity nothing is kept but a mark that means nothing
elsewhere (`marks`). Messages hold nothing that stands in the file, for a broken file may hold
a patient's name anywhere, and pydicom quotes what it cannot read: its messages, warnings and log stay inside.
"""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ..errors import RadiographError
from .dicom_pixels import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    PixelLayout,
    check_kind,
    check_transfer_syntax,
    is_for_processing,
    parse_with_pixels,
    read_stored,
)
from .radiograph import Radiograph, find_body_part, hash_patient
from .windowing import StoredValues, count_values, gray_tones, number_patterns, palette_tones, window_percentiles

if TYPE_CHECKING:
    from pydicom import Dataset

_HEADER_TAGS = (
    "SOPClassUID", "Modality", "PresentationIntentType", "BodyPartExamined", "AnatomicRegionSequence",
    "ImageLaterality", "Laterality", "PatientID",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "PresentationLUTShape", *(
        f"{colour}PaletteColorLookupTable{kind}"
        for colour in ("Red", "Green", "Blue") for kind in ("Descriptor", "Data")
    ),
)  # fmt: skip


def read_dicom(data: bytes, name: str, frame: int | None = None) -> Radiograph:
    """Reads one picture of a DICOM file.

    Args:
        data: The file's contents.
        name: Of the file, for messages.
        frame: Which picture of several, from 0; the first, with a warning, where None.

    Raises:
        RadiographError: If it is no radiograph, cannot be read or has no such picture.
    """
    problem = f"{name} is a damaged DICOM file, or one cut short; copy or export it again."
    try:
        with _quiet():
            return _read(data, name, frame)
    except RadiographError as error:
        problem = str(error)
    except MemoryError:
        problem = f"{name} needs more memory than there is; export it smaller."
    except Exception:  # pydicom and the decoders raise dozens of types, and quote the file
        pass
    raise RadiographError(problem)  # out here, so that no exception that quotes the file hangs on it


class _Quiet:
    """Keeps what pydicom warns of and logs inside while at least one thread reads; both settings are the process's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._undo = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                logger = logging.getLogger("pydicom")
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._undo.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL + 1)
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    self._undo.close()


_quiet = _Quiet()


def _read(data: bytes, name: str, frame: int | None) -> Radiograph:
    from pydicom import dcmread

    syntax, storage = _file_meta(data)
    check_transfer_syntax(syntax, name)
    header = dcmread(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
    check_kind(header, storage, name)
    implicit, little_endian = header.original_encoding
    if syntax is None:
        syntax = IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE if little_endian else EXPLICIT_BIG
    layout = PixelLayout.from_header(header, syntax, name)
    remarks = []
    if frame is None and layout.frames > 1:
        remarks.append(f"{name} holds {layout.frames} pictures; only the first was read.")
    if not 0 <= (frame or 0) < layout.frames:
        raise RadiographError(f"{name} has pictures 0 to {layout.frames - 1}; there is no picture {frame}.")
    if is_for_processing(header):
        remarks.append(f"{name} holds a detector's raw values, not yet processed for display; the answer may mislead.")
    stored, precision = read_stored(_with_pixels(data, name), layout, frame or 0, name)
    pixels, window_left_out = _to_display(header, layout, stored, precision, little_endian=bool(little_endian))
    if window_left_out:
        remarks.append(f"{name} asks for a window that shows nothing; its own percentiles were used.")
    mark = hash_patient(str(header.get("PatientID") or ""))
    return Radiograph(
        pixels, layout.bits_stored, "DICOM", _body_part(header), tuple(remarks), side=_side(header), patient_hash=mark
    )


def _file_meta(data: bytes) -> tuple[str | None, str]:
    """Transfer syntax and storage class from the file meta information alone (PS3.10 section 7.1), which is never
    deflated; None and "" where there is none.
    """
    from pydicom.filereader import read_dataset, read_preamble

    file = io.BytesIO(data)
    read_preamble(file, force=True)
    meta = read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, representation, length: tag >> 16 != 2
    )
    syntax, storage = (
        str(meta.get(key) or "").strip(" \0") for key in ("TransferSyntaxUID", "MediaStorageSOPClassUID")
    )
    return syntax or None, storage


def _with_pixels(data: bytes, name: str) -> "Dataset":
    found = parse_with_pixels(data)
    if "PixelData" not in found:
        raise RadiographError(
            f"{name} is a DICOM file without pixels, or cut short before them; export the radiograph again."
        )
    return found


def _to_display(
    header: "Dataset", layout: PixelLayout, stored: np.ndarray, precision: int, *, little_endian: bool
) -> tuple[np.ndarray, bool]:
    """Display values, float32 `[H, W]` in [0, 1], and whether the file's own window was left out."""
    if not layout.is_gray:
        if layout.bits_stored > 8:
            return window_percentiles(stored), False
        return stored.astype(np.float32) / np.float32((1 << layout.bits_stored) - 1), False
    counts = count_values(stored)
    numbers = number_patterns(len(counts), precision, signed=layout.signed)
    values = StoredValues(layout.bits_stored, layout.signed, numbers, counts, little_endian)
    if layout.photometric == "PALETTE COLOR":
        return palette_tones(header, values)[stored], False
    tones, window_left_out = gray_tones(header, values)
    return tones[stored], window_left_out


def _side(header: "Dataset") -> str | None:
    """The side of the body, from the image, else from the series."""
    told = str(header.get("ImageLaterality") or header.get("Laterality") or "").strip().upper()
    return {"L": "left", "R": "right"}.get(told)


def _body_part(header: "Dataset") -> str | None:
    found = find_body_part(str(header.get("BodyPartExamined") or ""))
    regions = header.get("AnatomicRegionSequence")
    if found is None and not header.get("BodyPartExamined") and regions:
        found = find_body_part(str(regions[0].get("CodeMeaning") or ""))
    return found
