"""From stored values to display values in [0, 1]."""

import numpy as np

# Shares of pixels that may be cut off at the dark and the bright end. Small enough to keep metal apart from bone,
# large enough that a few dead or burnt detector elements do not flatten the picture.
_LOW_SHARE, _HIGH_SHARE = 0.001, 0.999


def window_percentiles(values: np.ndarray) -> np.ndarray:
    """Windows more than 8 bits to [0, 1] by the .1 and 99.9 percentiles of the picture itself.

    A 16-bit file often uses 10 to 14 of its bits, so the container's range says nothing.

    Args:
        values: `[H, W]`, any real type, bone bright.

    Returns:
        float32 `[H, W]` in [0, 1]; all zeros where every value is the same.
    """
    low, high = np.quantile(values, [_LOW_SHARE, _HIGH_SHARE])
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.float32)
    return np.clip((values.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
