"""Places of a film that may tell the label without showing the patient: its corners, and letters near its border."""

from collections.abc import Sequence

import cv2
import numpy as np

Box = tuple[int, int, int, int]

_CORNER = 0.15  # of the sides
_SIDE, _COARSE = 512, 128  # long side in pixels at which letters are sought, and at which places are filled
_STROKE, _GAP = 0.04, 0.012  # of the long side: wider than a letter's stroke, and than the gap between two letters
_BRIGHT, _CONTRAST = 0.4, 0.25  # of the film's range: of a letter, and of a letter over what is around
_LARGEST, _SMALLEST, _BAND = (
    0.22,
    0.012,
    0.25,
)  # of the sides: of a letter, or a row of them, and how far from a border
_ALONE = 0.9  # share of what is around a letter that is darker than it
_MARGIN = 0.012  # of the long side, around a letter


def corner_boxes(pixels: np.ndarray) -> list[Box]:
    """The four corners of a film `[H, W]`, as boxes x0, y0, x1, y1 in pixels, half open."""
    height, width = pixels.shape
    down, right = max(1, round(_CORNER * height)), max(1, round(_CORNER * width))
    return [(x, y, x + right, y + down) for y in (0, height - down) for x in (0, width - right)]


def marker_boxes(pixels: np.ndarray) -> list[Box]:
    """Finds bright, compact things near the border that stand alone: lead letters, labels, clips.

    What is brighter than an opening leaves it is kept where it is bright and small, lies near a border, and has
    darker, empty surroundings. Metal in the middle of a film is none.

    Args:
        pixels: float32 `[H, W]` in [0, 1], bone bright.

    Returns:
        Boxes as of `corner_boxes`, with a margin; none where nothing is found.
    """
    scale = min(1.0, _SIDE / max(pixels.shape))
    small = cv2.resize(pixels.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    low, high = np.quantile(small, [0.01, 0.999])
    small = np.clip((small - low) / max(float(high - low), 1e-6), 0, 1)
    long = max(small.shape)
    stroke, gap = 2 * round(_STROKE * long / 2) + 1, 2 * round(_GAP * long / 2) + 1
    opened = cv2.morphologyEx(small, cv2.MORPH_OPEN, np.ones((stroke, stroke), np.uint8))
    bright = ((small > _BRIGHT) & (small - opened > _CONTRAST)).astype(np.uint8)
    joined = cv2.dilate(bright, np.ones((gap, gap), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    margin = max(1, round(_MARGIN * long))
    boxes = []
    for number, (x, y, width, height, _) in enumerate(stats[1:], 1):
        letter = bright[y : y + height, x : x + width] * (labels[y : y + height, x : x + width] == number) > 0
        box = (x - margin, y - margin, x + width + margin, y + height + margin)
        if _is_letter(small, letter, (x, y), box):
            boxes.append(tuple(round(edge / scale) for edge in box))
    bottom, right = pixels.shape
    return [(max(x0, 0), max(y0, 0), min(x1, right), min(y1, bottom)) for x0, y0, x1, y1 in boxes]


def _is_letter(small: np.ndarray, letter: np.ndarray, corner: tuple[int, int], box: Box) -> bool:
    """Whether a bright thing is as large as a letter, near a border, and alone.

    Args:
        small: The film.
        letter: bool `[h, w]`, its pixels within their rectangle.
        corner: Column and row of the rectangle.
        box: The rectangle with a margin.
    """
    (height, width), (rows, columns) = letter.shape, small.shape
    down, across = (np.flatnonzero(letter.any(axis)) + start for axis, start in ((1, corner[1]), (0, corner[0])))
    if max(height / rows, width / columns) > _LARGEST or min(np.ptp(down), np.ptp(across)) < _SMALLEST * max(
        rows, columns
    ):
        return False
    if min(down[0], across[0], rows - 1 - down[-1], columns - 1 - across[-1]) < 2:
        return False  # a sliver of the film's frame
    middle = float(np.mean(across)) / columns, float(np.mean(down)) / rows
    if min(*middle, *(1 - share for share in middle)) > _BAND:
        return False
    inside = (slice(corner[1], corner[1] + height), slice(corner[0], corner[0] + width))
    level = float(np.median(small[inside][letter]))
    ring = np.zeros(small.shape, bool)
    ring[max(box[1], 0) : box[3], max(box[0], 0) : box[2]] = True
    ring[inside] = False
    return bool(np.quantile(small[ring], _ALONE) < level - _CONTRAST)


def move_boxes(boxes: Sequence[Box], shape: tuple[int, int], rng: np.random.Generator) -> list[Box]:
    """Boxes of the same size at random places as near to a border, off the given ones where there is room.

    Args:
        boxes: What is moved.
        shape: Height and width of the film.
        rng: What places are drawn from.
    """
    moved: list[Box] = []
    for x0, y0, x1, y1 in boxes:
        width, height = x1 - x0, y1 - y0
        depth = min(x0, y0, shape[1] - x1, shape[0] - y1)  # how far from its border
        for _ in range(50):
            along, far = rng.random(), rng.random() < 0.5
            if rng.random() < shape[1] / sum(shape):  # along the upper or the lower border
                x = round(along * (shape[1] - width))
                y = shape[0] - height - depth if far else depth
            else:
                x = shape[1] - width - depth if far else depth
                y = round(along * (shape[0] - height))
            place = (x, y, x + width, y + height)
            if not any(_overlap(place, other) for other in [*boxes, *moved]):
                break
        moved.append(place)
    return moved


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def fill_boxes(pixels: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Paints boxes over with what is around them (Telea, J. Graphics Tools 9, 2004), with soft edges.

    Args:
        pixels: float32 `[H, W]` in [0, 1].
        boxes: What is painted over.

    Returns:
        float32 `[H, W]`; equal to `pixels` outside of the boxes.
    """
    height, width = pixels.shape
    mask = np.zeros(pixels.shape, np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    scale = min(1.0, _COARSE / max(pixels.shape))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    hidden = (cv2.resize(mask, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    filled = cv2.inpaint(np.rint(small * 255).astype(np.uint8), hidden, 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_LINEAR)
    depth = cv2.distanceTransform(np.pad(mask, 1, mode="edge"), cv2.DIST_L2, 3)[1:-1, 1:-1]
    share = np.minimum(depth / max(2.0, 0.004 * max(pixels.shape)), 1).astype(np.float32)
    return pixels * (1 - share) + filled * share
