"""Image operations of the shortcut audit: detects corners and markers, moves boxes, and paints them over."""

from collections.abc import Sequence

import cv2
import numpy as np

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, half open."""

_CORNER = 0.15  # of the sides
_SIDE = 512  # long side in pixels at which markers are detected
_INPAINT_SIDE = 128  # long side in pixels at which boxes are filled
_STROKE, _GAP = 0.04, 0.012  # of the long side: more than a letter's stroke, and than the gap between two letters
_BRIGHT, _CONTRAST = 0.4, 0.25  # of the image's range: of a letter, and of a letter over its surroundings
_LARGEST, _SMALLEST = 0.22, 0.012  # of the sides: size of a letter, or of a row of letters
_BAND = 0.25  # of the sides: largest distance of a letter's centre from the border
_DARKER = 0.9  # share of a letter's surroundings that must be darker than the letter
_MARGIN = 0.012  # of the long side, around a letter


def corner_boxes(pixels: np.ndarray) -> list[Box]:
    """Returns the four corners of an image `[H, W]`."""
    height, width = pixels.shape
    down, right = max(1, round(_CORNER * height)), max(1, round(_CORNER * width))
    return [(x, y, x + right, y + down) for y in (0, height - down) for x in (0, width - right)]


def marker_boxes(pixels: np.ndarray) -> list[Box]:
    """Detects bright, compact, isolated objects near the border: lead letters, labels, clips.

    Candidates are brighter than a morphological opening of the image. Those that are bright, small, close to a border
    and surrounded by darker pixels are kept, so metal in the middle of the image is ignored. The boxes have a margin.
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
    (bottom, right), boxes = pixels.shape, []
    for number, (x, y, width, height, _) in enumerate(stats[1:], 1):
        letter = bright[y : y + height, x : x + width] * (labels[y : y + height, x : x + width] == number) > 0
        box = (x - margin, y - margin, x + width + margin, y + height + margin)
        if _is_letter(small, letter, (x, y), box):
            x0, y0, x1, y1 = (round(edge / scale) for edge in box)
            boxes.append((max(x0, 0), max(y0, 0), min(x1, right), min(y1, bottom)))
    return boxes


def _is_letter(small: np.ndarray, letter: np.ndarray, corner: tuple[int, int], box: Box) -> bool:
    """Returns whether an object has the size of a letter, lies near a border, and is isolated.

    `letter` bool `[h, w]` are its pixels in its rectangle at `corner` (column, row); `box` is that with a margin.
    """
    (height, width), (rows, columns) = letter.shape, small.shape
    down, across = (np.flatnonzero(letter.any(axis)) + start for axis, start in ((1, corner[1]), (0, corner[0])))
    if max(height / rows, width / columns) > _LARGEST:
        return False
    if min(np.ptp(down), np.ptp(across)) < _SMALLEST * max(rows, columns):
        return False
    if min(down[0], across[0], rows - 1 - down[-1], columns - 1 - across[-1]) < 2:
        return False  # part of the image's frame
    center = float(np.mean(across)) / columns, float(np.mean(down)) / rows
    if min(*center, *(1 - share for share in center)) > _BAND:
        return False
    inside = (slice(corner[1], corner[1] + height), slice(corner[0], corner[0] + width))
    level = float(np.median(small[inside][letter]))
    ring = np.zeros(small.shape, bool)
    ring[max(box[1], 0) : box[3], max(box[0], 0) : box[2]] = True
    ring[inside] = False
    return bool(np.quantile(small[ring], _DARKER) < level - _CONTRAST)


def move_boxes(boxes: Sequence[Box], shape: tuple[int, int], rng: np.random.Generator) -> list[Box]:
    """Moves boxes in an image of this shape to random places at the same distance from a border.

    The places lie away from the given boxes if there is room.
    """
    moved: list[Box] = []
    for x0, y0, x1, y1 in boxes:
        width, height = x1 - x0, y1 - y0
        depth = min(x0, y0, shape[1] - x1, shape[0] - y1)  # distance from its border
        for _ in range(50):
            along, far = rng.random(), rng.random() < 0.5
            if rng.random() < shape[1] / sum(shape):  # along the upper or the lower border
                x = round(along * (shape[1] - width))
                y = shape[0] - height - depth if far else depth
            else:
                x = shape[1] - width - depth if far else depth
                y = round(along * (shape[0] - height))
            box = (x, y, x + width, y + height)
            if not any(_overlap(box, other) for other in [*boxes, *moved]):
                break
        moved.append(box)
    return moved


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def fill_boxes(pixels: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Paints boxes in an image, float32 `[H, W]` in [0, 1], over; pixels outside of them stay equal.

    They are inpainted (Telea, J. Graphics Tools 9, 2004) with soft edges.
    """
    height, width = pixels.shape
    mask = np.zeros(pixels.shape, np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    scale = min(1.0, _INPAINT_SIDE / max(pixels.shape))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    hidden = (cv2.resize(mask, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    filled = cv2.inpaint(np.rint(small * 255).astype(np.uint8), hidden, 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_LINEAR)
    depth = cv2.distanceTransform(np.pad(mask, 1, mode="edge"), cv2.DIST_L2, 3)[1:-1, 1:-1]
    share = np.minimum(depth / max(2.0, 0.004 * max(pixels.shape)), 1).astype(np.float32)
    return pixels * (1 - share) + filled * share
