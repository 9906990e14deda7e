"""`read_radiograph` reads one file into a `Radiograph`. PNG and JPEG are decoded here, DICOM in `dicom`."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import RadiographError
from .radiograph import MAX_PIXELS, TOO_LARGE, Radiograph, check_levels, check_radiograph
from .windowing import window_percentiles

MAX_BYTES = 256 << 20
"""Longer files are refused without reading them."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MODES_OF_8_BITS = ("L", "RGB", "1", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX")


def read_radiograph(
    source: str | Path | bytes | bytearray, *, name: str | None = None, frame: int | None = None
) -> Radiograph:
    """Reads one view.

    PNG and JPEG files with 8 bits keep their gray levels. PNG files with 16 bits are windowed by their own
    percentiles. Colours are converted to luminance, palettes are looked up, transparency is dropped, and the EXIF
    orientation is applied. DICOM files are windowed as they specify, else like PNG files of the same bit depth. No
    patient data is kept.

    Args:
        source: Path of a file, or its content.
        name: Name of the file in messages. Defaults to the last part of the path.
        frame: Index of the frame of a multi-frame DICOM file. Defaults to the first one, with a warning in
            `Radiograph.warnings`. Other files have frame 0 only.

    Raises:
        RadiographError: If it is not a readable PNG, JPEG or DICOM radiograph. The message names the file, what is
            wrong, and what to do.
    """
    data, name = _read_content(source, name)
    if looks_like_dicom(data):
        from .dicom import read_dicom

        return check_radiograph(read_dicom(data, name, frame), name)
    if frame:
        raise RadiographError(f"{name} is not a DICOM file and has frame 0 only; there is no frame {frame}.")
    pixels, bit_depth, source_format = _decode(data, name)
    if bit_depth == 8:
        pixels = np.divide(pixels, np.float32(255), dtype=np.float32)
    return check_radiograph(Radiograph(pixels, bit_depth, source_format), name)


def read_levels(source: str | Path | bytes | bytearray, *, name: str | None = None) -> np.ndarray:
    """Reads one view as gray levels, uint8 `[H, W]`.

    The result equals `read_radiograph(source, name=name).to_uint8()`, but files with 8 bits are not converted to
    floating point in between.

    Raises:
        RadiographError: As `read_radiograph`.
    """
    data, name = _read_content(source, name)
    if not looks_like_dicom(data):
        pixels, bit_depth, _ = _decode(data, name)
        if bit_depth == 8:
            check_levels(pixels, name)
            return pixels
    return read_radiograph(data, name=name).to_uint8()


def looks_like_dicom(data: bytes) -> bool:
    """Returns whether the content of a file is DICOM, judging by its prefix (PS3.10 section 7.1).

    Some archives omit preamble and prefix. Such a file begins with an element of group 2 or 8. No PNG, JPEG or text
    file begins with these bytes.
    """
    if data[128:132] == b"DICM":
        return True
    group, element = data[0:2], data[2:4]
    little_endian = group in (b"\x02\x00", b"\x08\x00") and element[1:] == b"\x00"
    return len(data) > 132 and (little_endian or (group == b"\x00\x08" and element[:1] == b"\x00"))


def _read_content(source: str | Path | bytes | bytearray, name: str | None) -> tuple[bytes, str]:
    """Returns the content of a file and its name in messages."""
    if isinstance(source, bytes | bytearray):
        data, name = bytes(source), name or "the image"
    else:
        path = Path(source)
        name = name or path.name
        try:
            if path.stat().st_size > MAX_BYTES:
                raise RadiographError(
                    f"{name} is larger than {MAX_BYTES >> 20} MiB, unlike any radiograph; export the single view."
                )
            data = path.read_bytes()
        except FileNotFoundError:
            raise RadiographError(f"{name} does not exist (looked for {path}).") from None
        except OSError as error:
            raise RadiographError(f"{name} cannot be opened: {error.strerror or error}.") from error
    if not data:
        raise RadiographError(f"{name} is empty; copy or upload the file again.")
    return data, name


def _decode(data: bytes, name: str) -> tuple[np.ndarray, int, str]:
    """Decodes a PNG or JPEG file.

    Returns:
        The pixels, uint8 `[H, W]` for a bit depth of 8, else float32 `[H, W]` in [0, 1]; the bit depth; the format.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the warning may be set to raise
        raise RadiographError(f"{name} has {TOO_LARGE}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
        raise RadiographError(
            f"{name} is not a PNG, JPEG or DICOM file, or its header is damaged; export it as one of these."
        ) from error
    with image:
        source_format = "PNG" if image.format == "PNG" else "JPEG"  # "MPO" is JPEG too
        if image.width * image.height > MAX_PIXELS:
            raise RadiographError(f"{name} ({image.width} x {image.height}) has {TOO_LARGE}")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and source_format == "PNG":
            raise RadiographError(f"{name} is an animation of {frames} frames; give each view as a separate file.")
        try:
            image.load()
            return *_to_gray(image, data, name), source_format
        except RadiographError:
            raise
        except MemoryError as error:
            raise RadiographError(f"{name} needs more memory than is available; export it smaller.") from error
        except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
            raise RadiographError(f"{name} is damaged or cut short ({error}); copy or export it again.") from error


def _to_gray(image: Image.Image, data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Converts a decoded image to gray, as in `_decode`, and returns its bit depth."""
    # The header chunk of a PNG file comes first (PNG specification, section 5.6) and holds the bit depth at byte 24.
    if data.startswith(_PNG_SIGNATURE) and data[24] == 16:
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            values = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
        else:
            values = _decode_16_bit_colours(image, data)
        return window_percentiles(values), 16
    if image.mode not in _MODES_OF_8_BITS:
        raise RadiographError(
            f"{name} is stored in colour mode {image.mode}, which no radiograph uses; export it as gray PNG or JPEG."
        )
    ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L")), 8


def _decode_16_bit_colours(image: Image.Image, data: bytes) -> np.ndarray:
    """Returns the luminance, uint16 `[H, W]`, of a 16-bit colour PNG file. Pillow keeps only the upper 8 bits."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded")
    values = Image.fromarray(cv2.cvtColor(decoded[..., :3], cv2.COLOR_BGR2GRAY))
    values.getexif().update(image.getexif())
    return np.asarray(ImageOps.exif_transpose(values))
