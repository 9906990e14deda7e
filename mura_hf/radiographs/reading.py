"""`read_radiograph`: one PNG or JPEG file into a `Radiograph`."""

import io
import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import RadiographError
from .radiograph import Radiograph
from .windowing import window_percentiles

MAX_PIXELS = 40_000_000
"""Larger pictures are refused before they are decoded."""

MIN_SIDE = 16
"""Pixels on the short side; below, nothing can be seen."""

MAX_ASPECT = 12
"""Longer side over shorter; MURA's and hospitals' films stay far below."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DICOM_PREFIX = b"DICM"
_PALETTE_AND_ALPHA = ("1", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX")


def read_radiograph(source: str | Path | bytes | bytearray, *, name: str | None = None) -> Radiograph:
    """Reads one view.

    PNG and JPEG with 8 bits are taken as they are; PNG with 16 bits is windowed by its own percentiles. Colour becomes
    luminance, transparency is dropped, a palette looked up, and the EXIF orientation applied.

    Args:
        source: Path of a file, or the file's bytes.
        name: What to call the file in messages; the path's last part where None.

    Raises:
        RadiographError: If it is anything but a readable PNG or JPEG of one picture; the message says what was wrong
            with which file and what to do.
    """
    if isinstance(source, bytes | bytearray):
        name, data = name or "the picture", bytes(source)
    else:
        name = name or Path(source).name
        try:
            data = Path(source).read_bytes()
        except FileNotFoundError:
            raise RadiographError(f"{name} does not exist (looked for {source}).") from None
        except OSError as error:
            raise RadiographError(f"{name} cannot be opened: {error.strerror or error}.") from error
    if not data:
        raise RadiographError(f"{name} is empty; copy or upload the file again.")
    if data[128:132] == _DICOM_PREFIX:
        raise RadiographError(
            f"{name} is a DICOM file, which this version cannot read yet; export it as PNG with 16 bits."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return _decode(data, name)


def _decode(data: bytes, name: str) -> Radiograph:
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RadiographError(_too_large(name)) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error) as error:
        raise RadiographError(
            f"{name} is not a PNG or JPEG picture, or its header is damaged; export the radiograph as PNG or JPEG."
        ) from error
    with image:
        source_format = "PNG" if image.format == "PNG" else "JPEG"
        if image.width * image.height > MAX_PIXELS:
            raise RadiographError(_too_large(name, image.width, image.height))
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and source_format == "PNG":
            raise RadiographError(f"{name} is an animation of {frames} pictures; give each view as a file of its own.")
        try:
            image.load()
            pixels, bit_depth = _pixels(image, data, name)
        except RadiographError:
            raise
        except MemoryError as error:
            raise RadiographError(f"{name} needs more memory than there is; export it smaller.") from error
        except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
            raise RadiographError(f"{name} is damaged or cut short ({error}); copy or export it again.") from error
    return check_radiograph(Radiograph(pixels, bit_depth, source_format), name)


def check_radiograph(radiograph: Radiograph, name: str) -> Radiograph:
    """Gives a radiograph back if it can be one.

    Raises:
        RadiographError: If the pixels are not `[H, W]` in [0, 1], too few, much longer than wide, or all of one tone.
    """
    pixels = radiograph.pixels
    size = " x ".join(map(str, pixels.shape[::-1]))
    if pixels.ndim != 2 or min(pixels.shape) < MIN_SIDE:
        raise RadiographError(
            f"{name} has only {size} pixels; give the radiograph itself, at least {MIN_SIDE} a side."
        )
    if max(pixels.shape) > MAX_ASPECT * min(pixels.shape):
        raise RadiographError(
            f"{name} has {size} pixels, one side more than {MAX_ASPECT} times the other, as in no radiograph; "
            "check it."
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise RadiographError(
            f"{name} has pixels from {low:g} to {high:g}; they must lie in [0, 1], so window them first."
        )
    if low == high:
        raise RadiographError(
            f"{name} is one even tone from edge to edge, so there is nothing to read; check the export."
        )
    return radiograph


def _pixels(image: Image.Image, data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Display values, float32 `[H, W]` in [0, 1], of a picture that Pillow has decoded without complaint; and the
    bit depth.
    """
    if _png_bit_depth(data) == 16:
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            values = np.asarray(ImageOps.exif_transpose(image))
        else:
            values = _colour_of_16_bits(image, data)
        return window_percentiles(values), 16
    if image.mode in ("L", "RGB", *_PALETTE_AND_ALPHA):
        upright = ImageOps.exif_transpose(image)
        gray = upright if upright.mode == "L" else upright.convert("RGB").convert("L")
        return np.asarray(gray, np.float32) / np.float32(255), 8
    raise RadiographError(
        f"{name} is stored in colour mode {image.mode}, which no radiograph uses; export it as a gray PNG or JPEG."
    )


def _colour_of_16_bits(image: Image.Image, data: bytes) -> np.ndarray:
    """Luminance, `[H, W]`, of a 16-bit colour PNG, of which Pillow keeps only the upper 8 bits."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded")
    blue, green, red = (decoded[..., channel].astype(np.float32) for channel in range(3))
    values = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.asarray(_turn_upright(Image.fromarray(values), image))


def _turn_upright(values: Image.Image, original: Image.Image) -> Image.Image:
    values.getexif().update(original.getexif())
    return ImageOps.exif_transpose(values)


def _png_bit_depth(data: bytes) -> int | None:
    """Bits a sample from a PNG's header chunk, which comes first by its specification (section 5.6); None for other
    files.
    """
    return data[24] if data.startswith(_PNG_SIGNATURE) and len(data) > 25 else None


def _too_large(name: str, width: int | None = None, height: int | None = None) -> str:
    size = f" ({width} x {height})" if width else ""
    most = MAX_PIXELS // 1_000_000
    return f"{name} has more than {most} megapixels{size}, which no radiograph needs; export it smaller."
