"""From stored values to display values in [0, 1].

What the stored values of a DICOM file mean: from each possible value to a tone in [0, 1].

At most 16 bits are stored a pixel, so that every step is taken on the 65,536 possible values and the picture is looked
up once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

# Shares of pixels that may be cut off at the dark and the bright end. Small enough to keep metal apart from bone,
# large enough that a few dead or burnt detector elements do not flatten the picture.
_LOW_SHARE, _HIGH_SHARE = 0.001, 0.999

_BLOCK = 1 << 22  # pixels counted at once; numpy widens each to 8 bytes


def window_percentiles(values: np.ndarray) -> np.ndarray:
    """Windows more than 8 bits to [0, 1] by the .1 and 99.9 percentiles of the picture itself.

    A 16-bit file often uses 10 to 14 of its bits, so the container's range says nothing.

    Args:
        values: `[H, W]` unsigned integers of at most 16 bits, bone bright.

    Returns:
        float32 `[H, W]` in [0, 1]; all zeros where every value is the same.
    """
    counts = count_values(values)
    table = np.arange(len(counts), dtype=np.float64)
    return scale(table, *find_percentiles(table, counts))[values]


def count_values(values: np.ndarray) -> np.ndarray:
    """How often each value occurs.

    Args:
        values: `[H, W]` unsigned integers of at most 16 bits.

    Returns:
        int64 `[256]` or `[65536]`.
    """
    flat = values.reshape(-1)
    counts = np.zeros(1 << (8 * values.dtype.itemsize), np.int64)
    for start in range(0, flat.size, _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=len(counts))
    return counts


def find_percentiles(table: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The .1 and 99.9 percentiles of a picture, or its least and greatest value where those are the same.

    Equal to `numpy.quantile` of the pixels, without ever sorting them.

    Args:
        table: float64 `[N]`, what each stored value means.
        counts: int64 `[N]`, how often each stored value occurs, at least one of them above 0.
    """
    order = np.argsort(table, kind="stable")
    order = order[counts[order] > 0]
    sorted_values, last = table[order], np.cumsum(counts[order]) - 1  # place of the last pixel of each value

    def quantile(share: float) -> float:
        place = share * last[-1]
        below, above = sorted_values[np.searchsorted(last, [np.floor(place), np.ceil(place)])]
        return float(below + (above - below) * (place - np.floor(place)))

    low, high = quantile(_LOW_SHARE), quantile(_HIGH_SHARE)
    return (low, high) if high > low else (float(sorted_values[0]), float(sorted_values[-1]))


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps [low, high] to [0, 1] and cuts off what lies outside; float32, all zeros where the range is empty."""
    if high <= low:
        return np.zeros(values.shape, np.float32)
    return np.clip((values.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0.0, 1.0)


def window_linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """DICOM's linear window, the default one (PS3.3 C.11.2.1.2.1), to [0, 1]. The width is at least 1."""
    below, above = values <= center - 0.5 - (width - 1) / 2, values > center - 0.5 + (width - 1) / 2
    inside = (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
    return np.where(below, 0.0, np.where(above, 1.0, inside))


def window_linear_exact(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """DICOM's window LINEAR_EXACT (PS3.3 C.11.2.1.3.2), to [0, 1]. The width is above 0."""
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)


def window_sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """DICOM's window SIGMOID (PS3.3 C.11.2.1.3.1), to [0, 1]. The width is above 0."""
    steepness = np.clip(-4 * (values - center) / width, -700.0, 700.0)  # exp overflows beyond
    return 1 / (1 + np.exp(steepness))


WINDOWS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "LINEAR": window_linear,
    "LINEAR_EXACT": window_linear_exact,
    "SIGMOID": window_sigmoid,
}
"""VOI LUT Function (0028,1056) -> how it maps float64 values of any shape, by center and width."""


if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class StoredValues:
    """What the possible values of one picture stand for.

    Attributes:
        bits: Bits Stored, 1 to 16.
        signed: Whether they are two's complement.
        numbers: float64 `[256]` or `[65536]`, the number that each bit pattern is.
        counts: int64 of the same length, how often each occurs in the picture.
        little_endian: Byte order of the tables in the file.
    """

    bits: int
    signed: bool
    numbers: np.ndarray
    counts: np.ndarray
    little_endian: bool

    def limits(self) -> np.ndarray:
        """The least and the greatest number that so many bits can store, float64 `[2]`."""
        low = -(1 << (self.bits - 1)) if self.signed else 0
        return np.array([low, low + (1 << self.bits) - 1], np.float64)


def number_patterns(length: int, precision: int, *, signed: bool) -> np.ndarray:
    """The number that each bit pattern stands for, float64 `[length]`; patterns use the lowest `precision` bits."""
    patterns = np.arange(length, dtype=np.float64)
    return np.where(patterns >= 1 << (precision - 1), patterns - (1 << precision), patterns) if signed else patterns


def gray_tones(header: "Dataset", stored: StoredValues) -> tuple[np.ndarray, bool]:
    """Tones of a gray picture.

    The modality LUT, or slope and intercept, comes first (PS3.3 C.11.1); a slope that makes no numbers is left out.
    Then the first VOI LUT, else the first window (C.11.2), scaled by the range of its output. Where the file has none
    that shows anything, 8 bits and fewer span their range, and more are windowed like PNG with 16 bits, padding left
    aside. At last MONOCHROME1, and the presentation LUT shape INVERSE that goes with it, is inverted.

    Args:
        header: The file's elements for it.
        stored: What the values stand for.

    Returns:
        float32 in [0, 1], one for each bit pattern, and whether the file's own window was left out because it shows
        one even tone.
    """
    values, limits = _modality(header, stored)
    seen = stored.counts > 0
    tones = _own_window(header, values, stored)
    shows_nothing = tones is not None and seen.sum() > 1 and np.ptp(tones[seen]) == 0
    if tones is None or shows_nothing:
        if stored.bits > 8:
            limits = find_percentiles(values, _without_padding(header, stored))
        tones = scale(values, *limits)
    tones = np.clip(tones, 0, 1).astype(np.float32)
    if (
        _word(header, "PhotometricInterpretation") == "MONOCHROME1"
        or _word(header, "PresentationLUTShape") == "INVERSE"
    ):
        tones = np.float32(1) - tones
    return tones, bool(shows_nothing)


def palette_tones(header: "Dataset", stored: StoredValues) -> np.ndarray:
    """Luminance of a palette's colours (PS3.3 C.7.6.3.1.5), float32 in [0, 1], one for each bit pattern.

    Raises:
        AttributeError: If there is no palette, or one in segments.
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
    most = max(most for _, most in tables)
    return np.clip((0.299 * red + 0.587 * green + 0.114 * blue) / most, 0, 1).astype(np.float32)


def _modality(header: "Dataset", stored: StoredValues) -> tuple[np.ndarray, tuple[float, float]]:
    """Values after the modality transform, float64 one for each bit pattern, and their range."""
    if header.get("ModalityLUTSequence"):
        item = header.ModalityLUTSequence[0]
        values, most = _look_up(item.LUTDescriptor, item.LUTData, stored.numbers, stored.little_endian)
        return values, (0.0, most)
    numbers, limits = stored.numbers, stored.limits()
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
    if slope and intercept is not None and abs(slope) + abs(intercept) < 1e12 and abs(slope) > 1e-12:
        numbers, limits = numbers * slope + intercept, limits * slope + intercept
    return numbers, (float(limits.min()), float(limits.max()))


def _own_window(header: "Dataset", values: np.ndarray, stored: StoredValues) -> np.ndarray | None:
    """Tones by the file's own VOI LUT or window; None where it has none that can be used."""
    if header.get("VOILUTSequence"):
        item = header.VOILUTSequence[0]
        tones, most = _look_up(item.LUTDescriptor, item.LUTData, np.rint(values), stored.little_endian)
        return tones / most
    function = _word(header, "VOILUTFunction")
    function = function if function in WINDOWS else "LINEAR"
    center, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    if center is None or width is None or not (width >= 1 if function == "LINEAR" else width > 0):
        return None
    return WINDOWS[function](values, center, width)


def _without_padding(header: "Dataset", stored: StoredValues) -> np.ndarray:
    """The counts without those of Pixel Padding Value, to Pixel Padding Range Limit where there is one."""
    edges = [_number(header, key) for key in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if edges[0] is None:
        return stored.counts
    low, high = sorted((edges[0], edges[0] if edges[1] is None else edges[1]))
    numbers = stored.numbers
    counts = np.where((numbers >= low) & (numbers <= high), 0, stored.counts)
    return counts if counts.any() else stored.counts


def _look_up(
    descriptor: "list[int]", data: "bytes | list[int]", values: np.ndarray, little_endian: bool
) -> tuple[np.ndarray, float]:
    """Values through a lookup table (PS3.3 C.11.1.1.1), and the greatest value that its bits can hold.

    The descriptor's number of bits is wrong in many files; the data themselves tell it.
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
    places = np.clip(values - first, 0, entries - 1).astype(np.int64)
    return table[places], float((1 << bits) - 1)


def _number(header: "Dataset", keyword: str) -> float | None:
    """The first of an element's values where it is a finite number."""
    value = header.get(keyword)
    if isinstance(value, list | tuple) or (hasattr(value, "__iter__") and not isinstance(value, str | bytes)):
        value = next(iter(value), None)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def _word(header: "Dataset", keyword: str) -> str:
    return str(header.get(keyword) or "").strip().upper()
