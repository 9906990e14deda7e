"""Small pictures, and files made of them, for the tests of readers."""

import io

import cv2
import numpy as np
import pydicom
from dicom_files import TRANSFER_SYNTAXES
from PIL import Image
from pydicom.dataset import Dataset

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


def changed(data, **elements):
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


def with_syntax(data, syntax):
    """The file with another value of its transfer syntax, which pydicom would not write."""
    place = data.index(b"\x02\x00\x10\x00UI") + 6
    length, syntax = int.from_bytes(data[place : place + 2], "little"), syntax + b"\0" * (len(syntax) % 2)
    return data[:place] + len(syntax).to_bytes(2, "little") + syntax + data[place + 2 + length :]


def make_lut(values, first=0, bits=16):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.asarray(values, "<u2").tobytes())
    return [item]


def encode(image, file_format="PNG", **options):
    """The file of an array or of a Pillow image."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
