"""`read_dicom` reads one DICOM file into a `Radiograph`.

Supported are computed and digital radiography and secondary captures, uncompressed or in RLE, JPEG, JPEG-LS and
JPEG 2000. `dicom_pixels` decodes the stored values, and `windowing` maps them to display values.

Only the elements listed here are read. Of the identity of the patient only a keyed hash is kept (`hash_patient`).
A damaged file may contain the name of a patient anywhere, and pydicom quotes what it cannot parse. Therefore messages
never quote the file, and pydicom's own messages, warnings and log records are suppressed.
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
    FOR_PROCESSING,
    IMPLICIT_LITTLE,
    PixelLayout,
    check_kind,
    check_transfer_syntax,
    read_stored,
)
from .radiograph import Radiograph, find_body_part, hash_patient
from .windowing import StoredValues, gray_tones, palette_tones, read_element, read_word, window_percentiles

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
    """Reads one frame of a DICOM file.

    Args:
        data: Content of the file.
        name: Name of the file in messages.
        frame: Index of the frame. Defaults to the first one, with a warning if there are several.

    Raises:
        RadiographError: If it is not a radiograph, cannot be read, or has no such frame.
    """
    problem = f"{name} is DICOM, but its elements cannot be parsed; export it again, or as PNG with 16 bits."
    try:
        with _silence_pydicom():
            return _read(data, name, frame)
    except RadiographError as error:
        problem = str(error)
    except MemoryError:
        problem = f"{name} needs more memory than is available; export it smaller."
    except Exception:  # pydicom and the decoders raise dozens of types and quote the file
        pass
    raise RadiographError(problem)  # outside the handlers, so that no exception that quotes the file is its context


class _SilencePydicom:
    """Suppresses warnings and pydicom's log while at least one thread reads. Both settings belong to the process."""

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


_silence_pydicom = _SilencePydicom()


def _read(data: bytes, name: str, frame: int | None) -> Radiograph:
    from pydicom import dcmread

    syntax, storage = _read_file_meta(data)
    check_transfer_syntax(syntax, name)
    header = dcmread(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
    check_kind(header, storage, name)
    implicit, little_endian = header.original_encoding
    if syntax is None:
        syntax = IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE if little_endian else EXPLICIT_BIG
    layout = PixelLayout.from_header(header, syntax, name)
    notes = list(layout.notes)
    if frame is None and layout.frames > 1:
        notes.append(f"has {layout.frames} frames; only the first was read.")
    if not 0 <= (frame or 0) < layout.frames:
        raise RadiographError(f"{name} has frames 0 to {layout.frames - 1}; there is no frame {frame}.")
    if header.get("SOPClassUID") == FOR_PROCESSING or read_word(header, "PresentationIntentType") == "FOR PROCESSING":
        notes.append("holds raw detector values, not yet processed for display; predictions may mislead.")
    stored, precision = read_stored(data, layout, frame or 0, name)
    if layout.samples > 1:
        bits = layout.bits_stored
        pixels = window_percentiles(stored) if bits > 8 else stored.astype(np.float32) / np.float32((1 << bits) - 1)
    else:
        pixels = _to_tones(header, layout, stored, precision, bool(little_endian), notes, name)[stored]
    side = read_word(header, "ImageLaterality") or read_word(header, "Laterality")
    return Radiograph(
        pixels,
        bit_depth=layout.bits_stored,
        source_format="DICOM",
        body_part=_read_body_part(header),
        warnings=tuple(f"{name} {note}" for note in dict.fromkeys(notes)),
        side={"L": "left", "R": "right"}.get(side),
        patient_hash=hash_patient(str(read_element(header, "PatientID") or "")),
    )


def _read_file_meta(data: bytes) -> tuple[str | None, str]:
    """Returns transfer syntax and storage class of the file meta information (PS3.10 section 7.1), or None and "".

    The file meta information is never deflated.
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


def _to_tones(
    header: "Dataset",
    layout: PixelLayout,
    stored: np.ndarray,
    precision: int,
    little_endian: bool,
    notes: list[str],
    name: str,
) -> np.ndarray:
    """Returns the display value of each bit pattern, float32 in [0, 1], and adds notes about what was ignored."""
    values = StoredValues(
        stored, precision, bits=layout.bits_stored, signed=layout.signed, little_endian=little_endian
    )
    if layout.photometric == "PALETTE COLOR":
        palette = palette_tones(header, values)
        if palette is None:
            raise RadiographError(f"{name} has no usable colour palette; export it as MONOCHROME2 or as PNG.")
        return palette
    tones, ignored = gray_tones(header, values)
    notes.extend(ignored)
    return tones


def _read_body_part(header: "Dataset") -> str | None:
    text, regions = read_element(header, "BodyPartExamined"), read_element(header, "AnatomicRegionSequence")
    if not text and regions:
        text = read_element(regions[0], "CodeMeaning")
    return find_body_part(str(text or ""))
