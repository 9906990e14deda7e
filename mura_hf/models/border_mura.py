"""Where the picture lies inside the even border that the collimator, a frame or a scanner left around it."""

import numpy as np

_DARKEST_WHITE, _BRIGHTEST_BLACK = 224, 48
_TOLERANCE = 6  # levels; JPEG's ripples and a sensor's noise stay within
_SHARE = 0.99  # of a line's pixels; the rest may be dust or the end of a letter
_MOST = 0.4  # of height or width, from one side
_LEAST = 0.25  # of the picture's area must stay
_MARGIN = 0.01  # of height or width is given back on each side that is trimmed


def find_field_inside_border(plane: np.ndarray) -> tuple[int, int, int, int]:
    """Finds the exposed field of a radiograph, so that the rest can be cropped.

    From each side, lines are trimmed as long as 99 % of a line's pixels lie within 6 levels of that side's tone: the
    median of the outermost line, which must be nearly black (up to 48) or nearly white (from 224). Whatever reaches
    into a line with more than 1 % of its pixels, be it a finger's tip, a letter or noise, stops the trimming there.
    One hundredth of the height or width is given back, at most 40 % are trimmed from a side, and a picture of which
    less than a quarter would stay is left whole. Left and right are trimmed before top and bottom, then all sides once
    more, since a side's line is even only after its neighbours' borders are gone.

    The rule is our own and errs towards keeping: a border at an angle, round, or with writing all along it stays.

    Args:
        plane: uint8 `[H, W]`.

    Returns:
        x0, y0, x1, y1: what is kept, in pixels; x1 and y1 are the first that are not.
    """
    height, width = plane.shape
    tones: dict[str, int] = {}
    x0, y0, x1, y1 = 0, 0, width, height
    for _ in range(2):
        x0 += _trim(plane[y0:y1, x0:x1].T, int(_MOST * width) - x0, tones, "left")
        x1 -= _trim(plane[y0:y1, x0:x1].T[::-1], int(_MOST * width) - (width - x1), tones, "right")
        y0 += _trim(plane[y0:y1, x0:x1], int(_MOST * height) - y0, tones, "top")
        y1 -= _trim(plane[y0:y1, x0:x1][::-1], int(_MOST * height) - (height - y1), tones, "bottom")
    across, down = int(np.ceil(_MARGIN * width)), int(np.ceil(_MARGIN * height))
    x0, y0, x1, y1 = max(0, x0 - across), max(0, y0 - down), min(width, x1 + across), min(height, y1 + down)
    if (x1 - x0) * (y1 - y0) < _LEAST * height * width:
        return 0, 0, width, height
    return x0, y0, x1, y1


def _trim(lines: np.ndarray, most: int, tones: dict[str, int], side: str) -> int:
    """How many lines `[n, length]` from the first on are border; the side's tone is kept for a second look."""
    if most < 1:
        return 0
    tone = tones.get(side, int(np.median(lines[0])))
    if _BRIGHTEST_BLACK < tone < _DARKEST_WHITE:
        return 0
    count = 0
    # Line by line, since most pictures have no border and end here at once.
    while count < most and (np.abs(lines[count].astype(np.int16) - tone) <= _TOLERANCE).mean() >= _SHARE:
        count += 1
    if count:
        tones[side] = tone
    return count


__all__ = ["find_field_inside_border"]
