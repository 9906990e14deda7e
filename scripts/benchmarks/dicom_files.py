"""Pixels as DICOM files in all transfer syntaxes that are common for radiographs, for benchmarks and tests."""

import hashlib
import io
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import UID, generate_uid

TRANSFER_SYNTAXES = {
    "implicit little endian": "1.2.840.10008.1.2",
    "explicit little endian": "1.2.840.10008.1.2.1",
    "explicit big endian": "1.2.840.10008.1.2.2",
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG baseline": "1.2.840.10008.1.2.4.50",
    "JPEG extended": "1.2.840.10008.1.2.4.51",
    "JPEG lossless": "1.2.840.10008.1.2.4.57",
    "JPEG lossless, first predictor": "1.2.840.10008.1.2.4.70",
    "JPEG-LS lossless": "1.2.840.10008.1.2.4.80",
    "JPEG-LS near-lossless": "1.2.840.10008.1.2.4.81",
    "JPEG 2000 lossless": "1.2.840.10008.1.2.4.90",
    "JPEG 2000": "1.2.840.10008.1.2.4.91",
}
"""Name of a transfer syntax -> its UID."""

_DIGITAL_X_RAY = "1.2.840.10008.5.1.4.1.1.1.1"
_NEAR = 2  # largest error of near-lossless JPEG-LS


def encode_dicom(
    frames: np.ndarray,
    *,
    syntax: str = "explicit little endian",
    bits_stored: int | None = None,
    photometric: str = "MONOCHROME2",
    **elements: Any,
) -> bytes:
    """Encodes pixels as a DICOM file of digital radiography.

    Args:
        frames: `[H, W]` gray, `[N, H, W]` several gray frames, or `[H, W, 3]` colour with a matching `photometric`;
            uint8, uint16, int8 or int16.
        syntax: A key of `TRANSFER_SYNTAXES`. JPEG baseline takes 8 bits, JPEG extended 12 at most.
        bits_stored: Number of used bits per value; all if None.
        photometric: Photometric interpretation, such as "MONOCHROME1" or "RGB".
        elements: Further elements by keyword, such as `BodyPartExamined="HAND"`; None removes one.

    Raises:
        ValueError: If the syntax is unknown.
    """
    if syntax not in TRANSFER_SYNTAXES:
        raise ValueError(f"unknown syntax {syntax!r}; known are {', '.join(TRANSFER_SYNTAXES)}")
    colour = photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    pictures = frames if frames.ndim == 3 + colour else frames[None]
    allocated = 8 * frames.dtype.itemsize
    header = Dataset()
    header.update(
        {
            "SOPClassUID": _DIGITAL_X_RAY,
            "SOPInstanceUID": generate_uid(entropy_srcs=[hashlib.sha256(frames.tobytes()).hexdigest()]),
            "Modality": "DX",
            "PhotometricInterpretation": photometric,
            "SamplesPerPixel": 3 if colour else 1,
            "Rows": pictures.shape[1],
            "Columns": pictures.shape[2],
            "BitsAllocated": allocated,
            "BitsStored": bits_stored or allocated,
            "HighBit": (bits_stored or allocated) - 1,
            "PixelRepresentation": int(frames.dtype.kind == "i"),
        }
    )
    if colour:
        header.PlanarConfiguration = 0
    if len(pictures) > 1:
        header.NumberOfFrames = len(pictures)
    uid = UID(TRANSFER_SYNTAXES[syntax])
    if uid.is_encapsulated:
        header.PixelData = encapsulate([bytes(_compress(picture, syntax, header)) for picture in pictures])
    else:
        stored = pictures if uid.is_little_endian else pictures.byteswap()
        header.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    header["PixelData"].VR = "OB" if uid.is_encapsulated or allocated == 8 else "OW"
    for keyword, value in elements.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid
    buffer = io.BytesIO()
    header.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _compress(picture: np.ndarray, syntax: str, header: Any) -> bytes | bytearray:
    bits = header.BitsStored
    # Codestreams without signed values store the lowest bits.
    plain = (picture.view(f"u{picture.dtype.itemsize}") & ((1 << bits) - 1)).astype(
        picture.dtype.str.replace("i", "u")
    )
    if syntax == "RLE":
        return RLELosslessEncoder.encode(
            np.ascontiguousarray(plain),
            rows=header.Rows,
            columns=header.Columns,
            samples_per_pixel=header.SamplesPerPixel,
            bits_allocated=header.BitsAllocated,
            bits_stored=bits,
            pixel_representation=0,
            photometric_interpretation=header.PhotometricInterpretation,
            number_of_frames=1,
            planar_configuration=0,
        )
    if syntax.startswith("JPEG 2000"):
        lossless = syntax.endswith("lossless")
        options: dict[str, Any] = {"level": 0 if lossless else 60, "reversible": lossless, "bitspersample": bits}
        return imagecodecs.jpeg2k_encode(picture, codecformat="j2k", **options)
    if syntax.startswith("JPEG-LS"):
        return imagecodecs.jpegls_encode(plain, level=0 if syntax.endswith("LS lossless") else _NEAR)
    if syntax.startswith("JPEG lossless"):
        predictor = 1 if syntax.endswith("predictor") else 6
        return imagecodecs.jpeg8_encode(plain, lossless=True, predictor=predictor, bitspersample=max(2, bits))
    precision = 8 if plain.dtype == np.uint8 else 12
    return imagecodecs.jpeg8_encode(plain, level=95, bitspersample=precision)
