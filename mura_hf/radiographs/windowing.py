"""From stored values to display values in [0, 1]: percentiles, the windows of DICOM, lookup tables and palettes.

A pixel stores at most 16 bits. So every step maps the table of all 256 or 65,536 possible values, and the image itself
is looked up once at the end.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

# Shares of pixels below and above the percentile window. Small enough to keep metal apart from bone, large enough that
# a few dead or burnt detector elements do not flatten the image.
_LOW_SHARE, _HIGH_SHARE = 0.001, 0.999

_BLOCK = 1 << 22  # pixels counted at once; numpy widens each of them to 8 bytes


def window_percentiles(values: np.ndarray) -> np.ndarray:
    """Windows more than 8 bits to [0, 1] by the 0.1 and 99.9 percentiles of the image.

    A 16-bit file often uses only 10 to 14 of its bits, so the range of its data type says nothing.

    Args:
        values: `[H, W]` unsigned integers of at most 16 bits, bone bright.

    Returns:
        float32 `[H, W]` in [0, 1], all zeros if all values are equal.
    """
    counts = count_values(values)
    table = np.arange(len(counts), dtype=np.float64)
    return scale(table, *find_percentiles(table, counts))[values]


def count_values(values: np.ndarray) -> np.ndarray:
    """Counts how often each value occurs: int64 `[256]` for uint8 `[H, W]`, `[65536]` for uint16 `[H, W]`."""
    flat = values.reshape(-1)
    counts = np.zeros(1 << (8 * values.dtype.itemsize), np.int64)
    for start in range(0, flat.size, _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=len(counts))
    return counts


def find_percentiles(table: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Returns the 0.1 and 99.9 percentiles of an image, or its minimum and maximum if the percentiles are equal.

    The result equals `numpy.quantile` of the pixels, without sorting them.

    Args:
        table: float64 `[N]`, the meaning of each stored value.
        counts: int64 `[N]`, how often each stored value occurs; at least one count is positive.
    """
    order = np.argsort(table, kind="stable")
    order = order[counts[order] > 0]
    sorted_values, last = table[order], np.cumsum(counts[order]) - 1  # rank of the last pixel of each value

    def quantile(share: float) -> float:
        rank = share * last[-1]
        below, above = sorted_values[np.searchsorted(last, [np.floor(rank), np.ceil(rank)])]
        return float(below + (above - below) * (rank - np.floor(rank)))

    low, high = quantile(_LOW_SHARE), quantile(_HIGH_SHARE)
    return (low, high) if high > low else (float(sorted_values[0]), float(sorted_values[-1]))


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps [low, high] to float32 in [0, 1] and clips the rest. All zeros if the range is empty."""
    if high <= low:
        return np.zeros(values.shape, np.float32)
    return np.clip((values.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0.0, 1.0)


def window_linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Applies the window LINEAR, DICOM's default (PS3.3 C.11.2.1.2.1). The width must be at least 1."""
    below, above = values <= center - 0.5 - (width - 1) / 2, values > center - 0.5 + (width - 1) / 2
    inside = (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
    return np.where(below, 0.0, np.where(above, 1.0, inside))


def window_linear_exact(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Applies the window LINEAR_EXACT (PS3.3 C.11.2.1.3.2). The width must be positive."""
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)


def window_sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Applies the window SIGMOID (PS3.3 C.11.2.1.3.1). The width must be positive."""
    return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700.0, 700.0)))  # exp overflows beyond


WINDOWS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "LINEAR": window_linear,
    "LINEAR_EXACT": window_linear_exact,
    "SIGMOID": window_sigmoid,
}
"""VOI LUT Function (0028,1056) -> function that maps float64 values to [0, 1], given center and width."""


class StoredValues:
    """The possible stored values of one image and how often they occur.

    Args:
        stored: uint8 or uint16 `[H, W]`, bit patterns that use the lowest `precision` bits.
        precision: At most 16.
        bits: Bits Stored, 1 to 16.
        signed: Whether values are two's complement.
        little_endian: Byte order of the lookup tables in the file.

    Attributes:
        numbers: float64 `[256]` or `[65536]`, the number that each bit pattern represents.
        counts: int64 of the same length, how often each pattern occurs.
    """

    def __init__(self, stored: np.ndarray, precision: int, *, bits: int, signed: bool, little_endian: bool) -> None:
        self.bits, self.signed, self.little_endian = bits, signed, little_endian
        self.counts = count_values(stored)
        self.numbers = np.arange(len(self.counts), dtype=np.float64)
        if signed:
            self.numbers[self.numbers >= 1 << (precision - 1)] -= 1 << precision


def gray_tones(header: "Dataset", stored: StoredValues) -> tuple[np.ndarray, bool]:
    """Computes the display values of a gray image.

    The steps are those of the standard: the modality LUT or rescale slope and intercept (PS3.3 C.11.1), then the first
    VOI LUT or else the first window (C.11.2), then inversion for MONOCHROME1 or the presentation LUT shape INVERSE.
    Without a usable window, images of 8 bits and fewer span their range, and deeper ones are windowed by percentiles
    of the pixels without padding.

    Returns:
        float32 in [0, 1] for each bit pattern, and whether the window of the file was ignored because it maps the
        whole image to a single tone.
    """
    values, limits = _apply_modality(header, stored)
    occurs = stored.counts > 0
    tones = _apply_window(header, values, stored)
    shows_nothing = tones is not None and occurs.sum() > 1 and np.ptp(tones[occurs]) == 0
    if tones is None or shows_nothing:
        if stored.bits > 8:
            limits = find_percentiles(values, _counts_without_padding(header, stored))
        tones = scale(values, *limits)
    tones = np.clip(tones, 0, 1).astype(np.float32)
    inverted = read_word(header, "PhotometricInterpretation") == "MONOCHROME1"
    if inverted or read_word(header, "PresentationLUTShape") == "INVERSE":
        tones = np.float32(1) - tones
    return tones, bool(shows_nothing)


def palette_tones(header: "Dataset", stored: StoredValues) -> np.ndarray:
    """Returns the luminance of palette colours (PS3.3 C.7.6.3.1.5), float32 in [0, 1] for each bit pattern.

    Raises:
        AttributeError: If there is no palette, or a segmented one.
    """
    tables = [
        _look_up(
            getattr(header, f"{colour}PaletteColorLookupTableDescriptor"),
            getattr(header, f"{colour}PaletteColorLookupTableData"),
            stored.numbers,
            stored.little_endian,
        )
        for colour in ("Red", "Green", "Blue")
    ]
    red, green, blue = (table for table, _ in tables)
    largest = max(largest for _, largest in tables)
    return np.clip((0.299 * red + 0.587 * green + 0.114 * blue) / largest, 0, 1).astype(np.float32)


def _apply_modality(header: "Dataset", stored: StoredValues) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns the values after the modality transform, float64 for each bit pattern, and their range."""
    if header.get("ModalityLUTSequence"):
        item = header.ModalityLUTSequence[0]
        values, largest = _look_up(item.LUTDescriptor, item.LUTData, stored.numbers, stored.little_endian)
        return values, (0.0, largest)
    numbers = stored.numbers
    lowest = -(1 << (stored.bits - 1)) if stored.signed else 0
    limits = np.array([lowest, lowest + (1 << stored.bits) - 1], np.float64)
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
    # A slope of 0 or of an absurd size is ignored.
    if slope and intercept is not None and abs(slope) + abs(intercept) < 1e12 and abs(slope) > 1e-12:
        numbers, limits = numbers * slope + intercept, limits * slope + intercept
    return numbers, (float(limits.min()), float(limits.max()))


def _apply_window(header: "Dataset", values: np.ndarray, stored: StoredValues) -> np.ndarray | None:
    """Applies the VOI LUT or the window of the file. Returns None if it has no usable one."""
    if header.get("VOILUTSequence"):
        item = header.VOILUTSequence[0]
        tones, largest = _look_up(item.LUTDescriptor, item.LUTData, np.rint(values), stored.little_endian)
        return tones / largest
    function = read_word(header, "VOILUTFunction")
    function = function if function in WINDOWS else "LINEAR"
    center, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    if center is None or width is None or not (width >= 1 if function == "LINEAR" else width > 0):
        return None
    return WINDOWS[function](values, center, width)


def _counts_without_padding(header: "Dataset", stored: StoredValues) -> np.ndarray:
    """Sets the counts from Pixel Padding Value to Pixel Padding Range Limit (if present) to 0."""
    first, limit = (_number(header, key) for key in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if first is None:
        return stored.counts
    low, high = sorted((first, first if limit is None else limit))
    counts = np.where((stored.numbers >= low) & (stored.numbers <= high), 0, stored.counts)
    return counts if counts.any() else stored.counts


def _look_up(
    descriptor: "list[int]", data: "bytes | list[int]", values: np.ndarray, little_endian: bool
) -> tuple[np.ndarray, float]:
    """Maps values through a lookup table (PS3.3 C.11.1.1.1). Returns also the largest value that its bits can hold.

    The number of bits in the descriptor is wrong in many files, so it is derived from the data.
    """
    entries, first = int(descriptor[0]) % 65536 or 65536, int(descriptor[1])
    if first > 32767 and values.min() < 0:
        first -= 65536  # a signed number that was read as an unsigned one
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        table = np.frombuffer(data, ("<u2" if little_endian else ">u2") if wide else "u1")
    else:
        table = np.asarray(data, np.int64) & 65535
    table = table[:entries].astype(np.float64)
    if len(table) < entries:
        raise ValueError("a lookup table is cut short")
    bits = max(8, int(table.max()).bit_length())
    indices = np.clip(values - first, 0, entries - 1).astype(np.int64)
    return table[indices], float((1 << bits) - 1)


def _number(header: "Dataset", keyword: str) -> float | None:
    """Returns the first value of an element if it is a finite number, else None."""
    value = header.get(keyword)
    if hasattr(value, "__iter__") and not isinstance(value, str | bytes):
        value = next(iter(value), None)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def read_word(header: "Dataset", keyword: str) -> str:
    """Returns the text of an element in upper case without spaces around it, and "" if it is missing."""
    return str(header.get(keyword) or "").strip().upper()
