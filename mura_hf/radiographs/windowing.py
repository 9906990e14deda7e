"""From stored values to display values in [0, 1]."""

from collections.abc import Callable

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
