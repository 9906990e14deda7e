"""From stored values to display values in [0, 1]: percentiles, the windows of DICOM, lookup tables and palettes.

A pixel stores at most 16 bits. So every step maps the table of all 256 or 65,536 possible values, and the image itself
is looked up once at the end.
"""

from collections.abc import Callable, Iterator, MutableSequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

# Shares of pixels below and above the percentile window. Small enough to keep metal apart from bone, large enough that
# a few dead or burnt detector elements do not flatten the image.
_LOW_SHARE, _HIGH_SHARE = 0.001, 0.999

# A window must leave as many of 256 gray levels, and this share of the pixels neither black nor white.
_MIN_LEVELS, _MIN_BETWEEN = 16, 0.02
_MAX_WINDOWS = 8  # of one file that are tried

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
        precision: Number of bits that the pixels use. Of a codestream, these may be fewer than `bits`.
        bits: Bits Stored of the header, 1 to 16, from which the range of the values follows.
        signed: Whether values are two's complement.
        little_endian: Byte order of the lookup tables in the file.

    Attributes:
        numbers: float64 `[256]` or `[65536]`, the number that each bit pattern represents.
        counts: int64 of the same length, how often each pattern occurs.
    """

    def __init__(self, stored: np.ndarray, precision: int, *, bits: int, signed: bool, little_endian: bool) -> None:
        self.precision, self.bits, self.signed, self.little_endian = precision, bits, signed, little_endian
        self.counts = count_values(stored)
        self.numbers = np.arange(len(self.counts), dtype=np.float64)
        if signed:
            self.numbers[self.numbers >= 1 << (precision - 1)] -= 1 << precision

    def find_range(self) -> tuple[float, float]:
        """Returns the smallest and the largest number that Bits Stored can hold."""
        lowest = -(1 << (self.bits - 1)) if self.signed else 0
        return float(lowest), float(lowest + (1 << self.bits) - 1)

    def find_number(self, word: int) -> float:
        """Returns the number of the pixels with the bit pattern of a 16-bit element, or NaN if no pixel can have it.

        Only the pattern counts, because some writers use SS for unsigned pixels and US for signed ones.
        """
        above, sign = word >> self.precision, word >> (self.precision - 1) & 1
        if above and not (self.signed and sign and above == 65535 >> self.precision):
            return float("nan")
        return float(self.numbers[word & ((1 << self.precision) - 1)])


def gray_tones(header: "Dataset", stored: StoredValues) -> tuple[np.ndarray, list[str]]:
    """Computes the display values of a gray image.

    The steps are those of the standard: the modality LUT or rescale slope and intercept (PS3.3 C.11.1), then a VOI LUT
    or else a window (C.11.2), then inversion for MONOCHROME1 or the presentation LUT shape INVERSE. The first VOI LUT
    or window is used that leaves enough of the picture. If there are only others, the image is windowed by its
    percentiles. If there are none, images of 8 bits and fewer span their range, and deeper ones are windowed by
    percentiles. Padding counts for none of this and becomes black.

    Returns:
        float32 in [0, 1] for each bit pattern, and sentences, without the name of the file in front, about what was
        ignored.
    """
    notes: list[str] = []
    values, limits = _apply_modality(header, stored, notes)
    padding = _find_padding(header, stored)
    counts = np.where(padding, 0, stored.counts)
    by_percentiles = scale(values, *find_percentiles(values, counts))
    tones, leave_nothing = None, False
    for windowed in islice(_apply_windows(header, values, limits, stored, notes), _MAX_WINDOWS):
        if _leaves_enough(windowed, by_percentiles, counts):
            tones = windowed
            break
        leave_nothing = True
    if leave_nothing:
        used = "percentiles of its pixels were" if tones is None else "next one was"
        notes.append(f"specifies a window that shows next to nothing of the picture; the {used} used instead.")
    if tones is None:
        tones = by_percentiles if leave_nothing or stored.bits > 8 else scale(values, *limits)
    tones = np.clip(tones, 0, 1).astype(np.float32)
    inverted = read_word(header, "PhotometricInterpretation") == "MONOCHROME1"
    if inverted or read_word(header, "PresentationLUTShape") == "INVERSE":
        tones = np.float32(1) - tones
    tones[padding] = 0
    return tones, notes


def palette_tones(header: "Dataset", stored: StoredValues) -> np.ndarray | None:
    """Returns the luminance of palette colours (PS3.3 C.7.6.3.1.5), float32 in [0, 1] for each bit pattern.

    Returns None if there is no palette or a segmented one.
    """
    tables = []
    for colour in ("Red", "Green", "Blue"):
        descriptor, data = (
            read_element(header, f"{colour}PaletteColorLookupTable{part}") for part in ("Descriptor", "Data")
        )
        table = _look_up(descriptor, data, stored.numbers, stored.find_range(), stored.little_endian)
        if table is None:
            return None
        tables.append(table)
    red, green, blue = (table for table, _ in tables)
    largest = max(largest for _, largest in tables)
    return np.clip((0.299 * red + 0.587 * green + 0.114 * blue) / largest, 0, 1).astype(np.float32)


def _apply_modality(
    header: "Dataset", stored: StoredValues, notes: list[str]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns the values after the modality transform, float64 for each bit pattern, and their range."""
    numbers, limits = stored.numbers, stored.find_range()
    for values, largest in _look_up_items(header, "ModalityLUTSequence", numbers, limits, stored, notes):
        return values, (0.0, largest)
    slope, intercept = read_number(header, "RescaleSlope"), read_number(header, "RescaleIntercept")
    # A slope of 0 or of an absurd size is ignored.
    if slope and intercept is not None and abs(slope) + abs(intercept) < 1e12 and abs(slope) > 1e-12:
        low, high = sorted(limit * slope + intercept for limit in limits)
        return numbers * slope + intercept, (low, high)
    return numbers, limits


def _apply_windows(
    header: "Dataset", values: np.ndarray, limits: tuple[float, float], stored: StoredValues, notes: list[str]
) -> Iterator[np.ndarray]:
    """Yields the values after each usable VOI LUT, then after each usable window."""
    for tones, largest in _look_up_items(header, "VOILUTSequence", np.rint(values), limits, stored, notes):
        yield tones / largest
    function = read_word(header, "VOILUTFunction")
    function = function if function in WINDOWS else "LINEAR"
    centers, widths = (_read_numbers(header, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    for center, width in zip(centers, widths, strict=False):
        if np.isfinite(center + width) and (width >= 1 if function == "LINEAR" else width > 0):
            yield WINDOWS[function](values, center, width)


def _leaves_enough(tones: np.ndarray, by_percentiles: np.ndarray, counts: np.ndarray) -> bool:
    """Whether a window leaves enough gray levels, and enough pixels between black and white.

    In a picture that has little of both, half of what its percentiles leave is enough.
    """
    levels, between = [], []
    for table in (tones, by_percentiles):
        of_level = np.bincount(np.rint(255 * np.clip(table, 0, 1)).astype(np.uint8), counts, minlength=256)
        levels.append(np.count_nonzero(of_level))
        between.append(of_level[1:255].sum() / of_level.sum())
    return bool(levels[0] >= min(_MIN_LEVELS, levels[1] / 2) and between[0] >= min(_MIN_BETWEEN, between[1] / 2))


def _find_padding(header: "Dataset", stored: StoredValues) -> np.ndarray:
    """Whether each bit pattern lies between Pixel Padding Value and Pixel Padding Range Limit (PS3.3 C.7.5.1.1.2).

    Without a limit, padding is a single value. It is ignored if it leaves less than two others.
    """
    value, limit = (
        _read_words(read_element(header, f"PixelPadding{part}"), stored.little_endian)[:1]
        for part in ("Value", "RangeLimit")
    )
    ends = [stored.find_number(int(word)) for word in (*value, *limit)]
    low, high = (np.min(ends), np.max(ends)) if len(value) else (np.nan, np.nan)  # also NaN if an end is
    padding = (stored.numbers >= low) & (stored.numbers <= high)
    return padding if np.count_nonzero(stored.counts[~padding]) > 1 else np.zeros_like(padding)


def _look_up_items(
    header: "Dataset",
    keyword: str,
    values: np.ndarray,
    limits: tuple[float, float],
    stored: StoredValues,
    notes: list[str],
) -> Iterator[tuple[np.ndarray, float]]:
    """Yields what `_look_up` returns for each usable item of a sequence of lookup tables."""
    for item in read_element(header, keyword) or ():
        descriptor, data = (read_element(item, part) for part in ("LUTDescriptor", "LUTData"))
        found = _look_up(descriptor, data, values, limits, stored.little_endian)
        if found is not None:
            yield found
        elif data:
            notes.append("contains a lookup table that does not fit its description; it was ignored.")


def _look_up(
    descriptor: Any, data: Any, values: np.ndarray, limits: tuple[float, float], little_endian: bool
) -> tuple[np.ndarray, float] | None:
    """Maps values through a lookup table (PS3.3 C.11.1.1.1). Returns also the largest value that its bits can hold.

    The number of bits in the descriptor is wrong in many files. It is derived from the entries if they need more, or
    fill less than a quarter of its range. `limits` is the range of the values. Returns None if descriptor and data are
    missing or contradict each other.
    """
    entries, first, bits = (int(word) for word in (*_read_words(descriptor, little_endian)[:3], 0, 0, 0)[:3])
    entries = entries or 65536
    narrow = isinstance(data, bytes) and len(data) < 2 * entries
    table = np.frombuffer(data, np.uint8) if narrow else _read_words(data, little_endian)
    if descriptor is None or len(table) < entries:
        return None
    table = table[:entries].astype(np.float64)

    def covered(first: int) -> float:
        return min(limits[1], first + entries - 1) - max(limits[0], first)

    if first > 32767 and covered(first - 65536) > covered(first):
        first -= 65536  # the pattern of a negative number
    top, bits = int(table.max()), min(bits, 16)
    if not top < 1 << bits <= 4 * top:
        bits = max(8, top.bit_length())
    indices = np.clip(values - first, 0, entries - 1).astype(np.int64)
    return table[indices], float((1 << bits) - 1)


def read_element(header: "Dataset", keyword: str) -> Any:
    """Returns the value of an element, or None if it is missing or cannot be parsed."""
    try:
        value = header.get(keyword)
    except Exception:  # pydicom parses values late and raises dozens of types
        return None
    is_sequence = isinstance(value, MutableSequence)  # of items or of several values
    return None if keyword.endswith("Sequence") and not is_sequence else value


def _read_words(value: Any, little_endian: bool) -> np.ndarray:
    """Returns the bit patterns of 16-bit numbers of any VR, int64 `[N]`. Empty if there are none."""
    if isinstance(value, bytes):
        return np.frombuffer(value[: len(value) // 2 * 2], "<u2" if little_endian else ">u2").astype(np.int64)
    try:
        return np.atleast_1d(np.asarray([] if value is None else value, np.float64)).astype(np.int64) & 65535
    except (TypeError, ValueError):
        return np.zeros(0, np.int64)


def _read_numbers(header: "Dataset", keyword: str) -> list[float]:
    """Returns the values of an element; NaN for those that are not numbers. A decimal comma counts as a point."""
    value = read_element(header, keyword)
    numbers = []
    for part in value if isinstance(value, MutableSequence) else [value]:
        try:
            numbers.append(float(part.replace(",", ".") if isinstance(part, str) else part))
        except (TypeError, ValueError, OverflowError):
            numbers.append(float("nan"))
    return numbers


def read_number(header: "Dataset", keyword: str) -> float | None:
    """Returns the first value of an element if it is a finite number, else None."""
    number = next(iter(_read_numbers(header, keyword)), float("nan"))
    return number if np.isfinite(number) else None


def read_word(header: "Dataset", keyword: str) -> str:
    """Returns the text of an element in upper case without spaces around it, and "" if it is missing."""
    return str(read_element(header, keyword) or "").strip().upper()
