"""`read_radiograph` reads one file into a `Radiograph`. Pictures are decoded here, DICOM in `dicom`."""

import codecs
import io
import re
from collections.abc import Callable
from pathlib import Path, PurePath

import cv2
import numpy as np
from PIL import (  # the plugins, since Pillow would otherwise load all it has when it meets TIFF or WebP
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from ..errors import RadiographError
from .radiograph import MAX_PIXELS, TOO_LARGE, Radiograph, check_levels, check_radiograph, reduce_radiograph
from .windowing import window_percentiles

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/|data:[^/]*/[^/]*[;,]", re.IGNORECASE)  # a `Path` keeps one slash only
MAX_BYTES = 256 << 20
"""Longer files are refused without reading them."""

HEAD_BYTES = 512
"""Length of the beginning of a file that `detect_format` needs."""

READABLE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WebP", "DICOM")
"""Formats of `read_radiograph`."""

_READABLE_TEXT = f"{', '.join(READABLE_FORMATS[:-1])} or {READABLE_FORMATS[-1]}"
_PICTURES = {"PNG": "PNG", "JPEG": "JPEG", "MPO": "JPEG", "TIFF": "TIFF", "BMP": "BMP", "WEBP": "WebP"}
_SIGNATURES = {
    rb"\x89PNG\r\n\x1a\n": "PNG",
    rb"\xff\xd8\xff": "JPEG",
    rb"II[*+]\0|MM\0[*+]": "TIFF",
    rb"BM.{12}[\x0c(4@8l|]\0\0\0": "BMP",  # with the length of its second header, since texts begin with BM too
    rb"RIFF.{4}WEBP": "WebP",
    rb".{4}ftyp(hei|hev|mif1|msf1)": "HEIC",
    rb".{4}ftypavi": "AVIF",
    rb"\0\0\0\x0c(jP  |JXL )\r\n\x87\n|\xff\x4f\xff\x51|\xff\x0a": "JPEG 2000 or JPEG XL",
    rb"GIF8": "GIF",
    rb"8BPS": "Photoshop",
    rb"%PDF": "PDF",
    rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b": "an archive",
    rb"\x93NUMPY": "NumPy",
    rb"NRRD000|.{344}(n\+1|ni1)\0": "a volume (NRRD or NIfTI)",
}
_WAYS_OUT = {"an archive": "unpack it", "a volume (NRRD or NIfTI)": "export the radiograph as DICOM or PNG"}
_HIDDEN = re.compile(r"^(\..*|__MACOSX|DICOMDIR|Thumbs\.db|desktop\.ini)$", re.IGNORECASE)
_DOCUMENTS = (
    ".txt", ".csv", ".tsv", ".xml", ".htm", ".html", ".log", ".ini", ".md", ".docx", ".xlsx", ".pptx", ".odt", ".ods",
    ".parquet", ".db", ".exe", ".dll", ".so", ".jar",
)  # fmt: skip
_PICTURE_ENDINGS = (
    ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".ima", ".dic", ".dcm_", ".img", ".heic", ".heif", ".avif",
    ".gif", ".jp2", ".svg",
)  # fmt: skip
_JPEG_METADATA = (*range(0xE1, 0xEE), 0xEF, 0xFE)  # application segments but JFIF and Adobe's, and comments
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # orientation of EXIF -> how to undo it
_COLOURED = 12  # mean difference of the largest and smallest channel; compression of a gray picture makes 0 to 2
_MODES_OF_8_BITS = ("L", "RGB", "1", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX")


def read_radiograph(
    source: str | Path | bytes | bytearray,
    *,
    name: str | None = None,
    frame: int | None = None,
    max_pixels: int | None = None,
) -> Radiograph:
    """Reads one view.

    The format is detected by the content; the name does not matter. PNG, JPEG, TIFF, BMP and WebP files with 8 bits
    keep their gray levels. PNG and TIFF files with 16 bits are windowed by their own percentiles. Colours are
    converted to luminance, palettes are looked up, transparency is dropped, and the EXIF orientation is applied. DICOM
    files are windowed as they specify, else like PNG files of the same bit depth. No patient data is kept.

    Args:
        source: Path of a file, or its content.
        name: Name of the file in messages. Defaults to the last part of the path.
        frame: Index of the frame of a multi-frame DICOM file. Defaults to the first one, with a warning in
            `Radiograph.warnings`. Other files have frame 0 only.
        max_pixels: A larger view is reduced to this size, with a warning in `Radiograph.warnings`. This bounds the
            memory of a study, because a pixel takes 4 bytes, and 4 more in its heatmap. Defaults to the size in the
            file.

    Raises:
        RadiographError: If it is not a readable radiograph in one of `READABLE_FORMATS`. The message names the file,
            what is wrong, and what to do.
    """
    data, name = _read_content(source, name)
    if looks_like_dicom(data):
        from .dicom import read_dicom

        radiograph = read_dicom(data, name, frame)
    elif frame:
        raise RadiographError(f"{name} is not a DICOM file and has frame 0 only; there is no frame {frame}.")
    else:
        pixels, bit_depth, coloured, source_format = _decode(data, name)
        if bit_depth == 8:
            pixels = np.divide(pixels, np.float32(255), dtype=np.float32)
        radiograph = Radiograph(pixels, bit_depth, source_format, is_coloured=coloured)
    return check_radiograph(reduce_radiograph(radiograph, max_pixels or MAX_PIXELS, name), name)


def read_levels(source: str | Path | bytes | bytearray, *, name: str | None = None) -> np.ndarray:
    """Reads one view as gray levels, uint8 `[H, W]`.

    The result equals `read_radiograph(source, name=name).to_uint8()`, but files with 8 bits are not converted to
    floating point in between.

    Raises:
        RadiographError: As `read_radiograph`.
    """
    data, name = _read_content(source, name)
    if not looks_like_dicom(data):
        pixels, bit_depth, *_ = _decode(data, name)
        if bit_depth == 8:
            check_levels(pixels, name)
            return pixels
    return read_radiograph(data, name=name).to_uint8()


def detect_format(head: bytes) -> str | None:
    """Returns the format of a file: one of `READABLE_FORMATS`, another one such as "HEIC", or None if it is unknown.

    Args:
        head: The content of the file, or its first `HEAD_BYTES`.
    """
    if looks_like_dicom(head):
        return "DICOM"
    found = (name for signature, name in _SIGNATURES.items() if re.match(signature, head[:HEAD_BYTES], re.DOTALL))
    return next(found, None)


def find_kind(file: PurePath, read_head: Callable[[], bytes] | None = None) -> str | None:
    """Returns what a file in a folder of radiographs is, judging by its content.

    Args:
        file: Its path. Only files with the usual endings of PNG, JPEG and DICOM are not opened.
        read_head: Returns its first `HEAD_BYTES`, for a file that is not on the disk; empty if it cannot be read.

    Returns:
        "view" if it seems readable; "unreadable" for a picture or an archive that `read_radiograph` refuses; "unknown"
        for other data; and None for what is no view: hidden and system files, texts, documents, programs.
    """
    ending = file.suffix.lower()
    if is_hidden(file.name) or ending in (".png", ".jpg", ".jpeg", ".dcm", ".dicom"):
        return None if is_hidden(file.name) else "view"
    head = read_head() if read_head is not None else _read_head(Path(file))
    detected = detect_format(head)
    if detected in READABLE_FORMATS:
        return "view"
    is_named_so = ending in _PICTURE_ENDINGS
    if ending in _DOCUMENTS or (detected is None and not is_named_so and _is_text(head)):
        return None
    is_likely = detected is not None or is_named_so or not ending or ending[1:].isdecimal()  # UIDs of DICOM
    return "unreadable" if is_likely else "unknown"


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is hidden or belongs to the system or to an archive."""
    return _HIDDEN.match(name) is not None


def _read_head(file: Path) -> bytes:
    try:
        if not file.is_file():  # a pipe would wait forever
            return b""
        with file.open("rb") as opened:
            return opened.read(HEAD_BYTES)
    except OSError:
        return b""


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut off
    except UnicodeDecodeError:
        return head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return bool(head) and not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", head)


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
        name = name or path.name or str(path)
        if _URL.match(str(source)):
            raise RadiographError(f"{name[:80]} is a URL, and nothing is downloaded; give the path of a local copy.")
        try:
            if path.stat().st_size > MAX_BYTES:
                raise RadiographError(
                    f"{name} is larger than {MAX_BYTES >> 20} MiB, unlike any radiograph; export the single view."
                )
            if path.is_dir():
                raise RadiographError(f"{name} is a folder, not a view; give its files, list(Path(folder).iterdir()).")
            if not path.is_file():
                raise RadiographError(f"{name} is not a file but a pipe or a device; give a file.")
            data = path.read_bytes()
        except FileNotFoundError:
            raise RadiographError(f"{name} does not exist (looked for {path}).") from None
        except OSError as error:
            raise RadiographError(f"{name} cannot be opened: {error.strerror or error}.") from error
    if not data:
        raise RadiographError(f"{name} is empty; copy or upload the file again.")
    return data, name


def _decode(data: bytes, name: str) -> tuple[np.ndarray, int, bool, str]:
    """Decodes a file other than DICOM.

    Returns:
        The pixels, uint8 `[H, W]` for a bit depth of 8, else float32 `[H, W]` in [0, 1]; the bit depth; whether it has
        colours; and the format.
    """
    detected = detect_format(data)
    if detected is not None and detected not in READABLE_FORMATS:
        way_out = _WAYS_OUT.get(detected, "save it as JPEG or PNG")
        raise RadiographError(f"{name} is {detected}, which is not supported; {way_out}.")
    try:
        try:
            return _decode_picture(data, name)
        except (RadiographError, MemoryError):
            raise
        except Exception:  # odd metadata or damaged pixels: Pillow raises a dozen types
            if detected not in ("PNG", "JPEG"):
                raise
            return _decode_without_metadata(data, detected, name)
    except RadiographError:
        raise
    except MemoryError as error:
        raise RadiographError(f"{name} needs more memory than is available; export it smaller.") from error
    except UnidentifiedImageError as error:
        raise RadiographError(
            f"{name} is not a {_READABLE_TEXT} file, or its header is damaged; export it as one of these."
            if detected is None
            else f"{name} is a {detected} file with a damaged header or of an unusual kind; export it as 8-bit PNG."
        ) from error
    except Exception as error:
        raise RadiographError(f"{name} is damaged or cut short ({error}); copy or export it again.") from error


def _decode_picture(data: bytes, name: str, exif: bytes = b"") -> tuple[np.ndarray, int, bool, str]:
    """Decodes a file with Pillow, as `_decode`. `exif` is used if the file has no EXIF data."""
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF", "BMP", "WEBP"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the warning may be set to raise
        raise RadiographError(f"{name} has {TOO_LARGE}") from None
    with image:
        source_format = _PICTURES[image.format or ""]
        if image.width * image.height > MAX_PIXELS:
            raise RadiographError(f"{name} ({image.width} x {image.height}) has {TOO_LARGE}")
        if source_format != "JPEG" and _has_more_frames(image):  # of a JPEG file these are previews
            raise RadiographError(f"{name} has several pages or frames; give each view as a separate file.")
        if exif:
            image.info.setdefault("exif", exif)
        image.load()
        return *_to_gray(image, data, name), source_format


def _decode_without_metadata(data: bytes, file_format: str, name: str) -> tuple[np.ndarray, int, bool, str]:
    """Decodes the pixels of a PNG or JPEG file whose metadata, such as texts and colour profiles, cannot be read.

    Metadata are chunks (PNG specification, section 5) or segments (ITU-T T.81, section B.2) that the pixels do not
    need.
    """
    is_png = file_format == "PNG"
    parts, exif, start = [data[: 8 if is_png else 2]], b"", 8 if is_png else 2
    while start + 4 <= len(data):
        if is_png:
            kind, end = data[start + 4 : start + 8], start + 12 + int.from_bytes(data[start : start + 4])
            content, is_needed = data[start + 8 : end - 4], kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
            is_exif = kind == b"eXIf"
        elif data[start] != 0xFF or data[start + 1] == 0xDA:  # the first scan
            break
        else:
            end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
            content, is_needed = data[start + 4 : end], data[start + 1] not in _JPEG_METADATA
            is_exif = content.startswith(b"Exif\0\0")
        exif = content if is_exif else exif
        parts += [data[start:end]] if is_needed else []
        start = end
    return _decode_picture(b"".join(parts if is_png else [*parts, data[start:]]), name, exif)


def _has_more_frames(image: Image.Image) -> bool:
    """Tries the second frame, since a damaged TIFF file may claim any number of them."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _to_gray(image: Image.Image, data: bytes, name: str) -> tuple[np.ndarray, int, bool]:
    """Converts a decoded image to gray, as in `_decode`; also returns its bit depth and whether it has colours."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else None
    # The header chunk of a PNG file comes first (PNG specification, section 5.6) and holds the bit depth at byte 24.
    bits = max(tags.get(258, (1,))) if tags is not None else data[24] if image.format == "PNG" else 8
    if 8 < bits <= 16:
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            values = np.asarray(_upright(image, image))
            values = (values + (32768 if values.min() < 0 else 0)).astype(np.uint16)  # TIFF may have signed values
            if tags is not None and tags.get(262) == 0:  # white is zero (TIFF 6.0, section 4)
                values = ~values
        else:
            values = _decode_16_bit_colours(image, data)
        return window_percentiles(values), 16, False
    if image.mode not in _MODES_OF_8_BITS:
        raise RadiographError(
            f"{name} is stored in colour mode {image.mode}, which no radiograph uses; export it as gray PNG or JPEG."
        )
    image = _upright(image, image)
    if image.mode == "L":
        levels = np.asarray(image)
        is_signed = tags is not None and 2 in tags.get(339, ())
        return levels ^ 128 if is_signed else levels, 8, False
    image = image.convert("RGB")
    sample = np.asarray(image.resize((64, 64), Image.Resampling.NEAREST))
    return np.asarray(image.convert("L")), 8, bool(np.ptp(sample, axis=2).mean() > _COLOURED)


def _decode_16_bit_colours(image: Image.Image, data: bytes) -> np.ndarray:
    """Returns the luminance, uint16 `[H, W]`, of a 16-bit colour file. Pillow keeps only the upper 8 bits."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded")
    values = Image.fromarray(cv2.cvtColor(decoded[..., :3], cv2.COLOR_BGR2GRAY))
    return np.asarray(_upright(values, image))


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation of an image. If its metadata cannot be read, the pixels stay as they are."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises dozens of types
        return pixels
    return pixels.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else pixels
