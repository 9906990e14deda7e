"""`read_radiograph`: one file into a `Radiograph`. PNG and JPEG are decoded here, DICOM beside."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import RadiographError
from .radiograph import Radiograph, check_film, check_radiograph, check_size, too_large
from .windowing import window_percentiles

MAX_BYTES = 256 << 20
"""Longer files are refused unread."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DICOM_PREFIX = b"DICM"
_PALETTE_AND_ALPHA = ("1", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX")


def read_radiograph(
    source: str | Path | bytes | bytearray, *, name: str | None = None, frame: int | None = None
) -> Radiograph:
    """Reads one view.

    PNG and JPEG with 8 bits are taken as they are; PNG with 16 bits is windowed by its own percentiles. Colour becomes
    luminance, transparency is dropped, a palette looked up, and the EXIF orientation applied. DICOM is windowed as the
    file says, else like PNG of as many bits; see `mura_hf.radiographs.dicom`. Nothing about the patient is kept.

    Args:
        source: Path of a file, or the file's bytes.
        name: What to call the file in messages; the path's last part where None.
        frame: Which picture of a DICOM file of several, from 0; where None the first, with a warning in
            `Radiograph.warnings`. Other files have only picture 0.

    Raises:
        RadiographError: If it is anything but a readable PNG, JPEG or DICOM radiograph; the message says what was
            wrong with which file and what to do.
    """
    data, name = _contents(source, name)
    if looks_like_dicom(data):
        from .dicom import read_dicom

        return check_radiograph(read_dicom(data, name, frame), name)
    if frame:
        raise RadiographError(f"{name} is no DICOM file and holds one picture, number 0; there is no number {frame}.")
    pixels, bit_depth, source_format = _decode(data, name)
    if bit_depth == 8:
        pixels = np.divide(pixels, np.float32(255), dtype=np.float32)
    return check_radiograph(Radiograph(pixels, bit_depth, source_format), name)


def read_levels(source: str | Path | bytes | bytearray, *, name: str | None = None) -> np.ndarray:
    """Reads one view as gray levels, uint8 `[H, W]`: `read_radiograph(source, name=name).to_uint8()`, without the way
    over floats where the file has 8 bits.

    Raises:
        RadiographError: As `read_radiograph`.
    """
    data, name = _contents(source, name)
    if not looks_like_dicom(data):
        pixels, bit_depth, _ = _decode(data, name)
        if bit_depth == 8:
            check_film(pixels, name)
            return pixels
    return read_radiograph(data, name=name).to_uint8()


def _contents(source: str | Path | bytes | bytearray, name: str | None) -> tuple[bytes, str]:
    """The bytes of a file, and what to call it."""
    if isinstance(source, bytes | bytearray):
        name, data = name or "the picture", bytes(source)
    else:
        name = name or Path(source).name
        data = _read_bytes(Path(source), name)
    if not data:
        raise RadiographError(f"{name} is empty; copy or upload the file again.")
    return data, name


def looks_like_dicom(data: bytes) -> bool:
    """Whether the contents of a file are DICOM, by its prefix (PS3.10 section 7.1).

    Some archives leave preamble and prefix out. Such a file begins with an element of group 2 or 8, bytes that begin
    no PNG, JPEG or text.
    """
    if data[128:132] == _DICOM_PREFIX:
        return True
    group, element = data[0:2], data[2:4]
    little = group in (b"\x02\x00", b"\x08\x00") and element[1:] == b"\x00"
    return len(data) > 132 and (little or (group == b"\x00\x08" and element[:1] == b"\x00"))


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RadiographError(
                f"{name} is larger than {MAX_BYTES >> 20} MiB, which no radiograph is; export the one view."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise RadiographError(f"{name} does not exist (looked for {path}).") from None
    except OSError as error:
        raise RadiographError(f"{name} cannot be opened: {error.strerror or error}.") from error


def _decode(data: bytes, name: str) -> tuple[np.ndarray, int, str]:
    """What `_pixels` gives for a PNG or JPEG file, and which of the two it is."""
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # a warning may be set to raise
        raise RadiographError(too_large(name)) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
        raise RadiographError(
            f"{name} is not a PNG, JPEG or DICOM file, or its header is damaged; export it as one of these."
        ) from error
    with image:
        source_format = "PNG" if image.format == "PNG" else "JPEG"
        check_size(name, image.width, image.height)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and source_format == "PNG":
            raise RadiographError(f"{name} is an animation of {frames} pictures; give each view as a file of its own.")
        try:
            image.load()
            return *_pixels(image, data, name), source_format
        except RadiographError:
            raise
        except MemoryError as error:
            raise RadiographError(f"{name} needs more memory than there is; export it smaller.") from error
        except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
            raise RadiographError(f"{name} is damaged or cut short ({error}); copy or export it again.") from error


def _pixels(image: Image.Image, data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Display values of a picture that Pillow has decoded without complaint, and its bit depth: uint8 `[H, W]` where
    that is 8, else float32 `[H, W]` in [0, 1].
    """
    if _png_bit_depth(data) == 16:
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            values = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
        else:
            values = _colour_of_16_bits(image, data)
        return window_percentiles(values), 16
    if image.mode in ("L", "RGB", *_PALETTE_AND_ALPHA):
        ImageOps.exif_transpose(image, in_place=True)
        gray = image if image.mode == "L" else image.convert("RGB").convert("L")
        return np.asarray(gray), 8
    raise RadiographError(
        f"{name} is stored in colour mode {image.mode}, which no radiograph uses; export it as a gray PNG or JPEG."
    )


def _colour_of_16_bits(image: Image.Image, data: bytes) -> np.ndarray:
    """Luminance, `[H, W]`, of a 16-bit colour PNG, of which Pillow keeps only the upper 8 bits."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded")
    values = cv2.cvtColor(decoded[..., :3], cv2.COLOR_BGR2GRAY)
    return np.asarray(_turn_upright(Image.fromarray(values), image))


def _turn_upright(values: Image.Image, original: Image.Image) -> Image.Image:
    values.getexif().update(original.getexif())
    return ImageOps.exif_transpose(values)


def _png_bit_depth(data: bytes) -> int | None:
    """Bits a sample from a PNG's header chunk, which comes first by its specification (section 5.6); None for other
    files.
    """
    return data[24] if data.startswith(_PNG_SIGNATURE) and len(data) > 25 else None
