"""Where a picture's pixels lie in the processed picture, and how a map computed there comes back.

Where the picture lies inside the even border that the collimator, a frame or a scanner left around it.
Any picture as one gray plane of 8 bits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.utils import logging

RESIZE_MODES = ("letterbox", "squash")


def check_resize_mode(mode: str | None) -> str:
    """Gives a resize mode back.

    Raises:
        ValueError: If it is none.
    """
    if mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode is {mode!r}: it must be one of {', '.join(RESIZE_MODES)}")
    return mode


def find_placement(original: tuple[int, ...], size: tuple[int, int], mode: str) -> tuple[int, int, int, int]:
    """Where a resized picture lies on the canvas.

    Args:
        original: Height and width of the picture in pixels.
        size: Height and width of the canvas in pixels.
        mode: One of `RESIZE_MODES`.

    Returns:
        top, left, height, width in pixels of the canvas.
    """
    if mode == "squash":
        return 0, 0, size[0], size[1]
    scale = min(size[0] / original[0], size[1] / original[1])
    height, width = max(1, round(original[0] * scale)), max(1, round(original[1] * scale))
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def lay_on_canvas(
    plane: np.ndarray,
    size: tuple[int, int],
    mode: str,
    resample: int,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Resizes a plane and lays it on a black canvas, which shows as bars beside a letterboxed picture.

    Args:
        plane: uint8 `[H, W]`.
        size: Height and width of the canvas in pixels.
        mode: One of `RESIZE_MODES`.
        resample: One of `PIL.Image.Resampling`.
        change: What is done to the resized picture before it is laid there; it keeps the shape.

    Returns:
        uint8 `[height, width]`.
    """
    top, left, height, width = find_placement(plane.shape, size, mode)
    resized = np.asarray(Image.fromarray(plane).resize((width, height), resample=Image.Resampling(resample)))
    if change is not None:
        resized = change(resized)
    if mode == "squash":
        return resized
    canvas = np.zeros(size, np.uint8)
    canvas[top : top + height, left : left + width] = resized
    return canvas


def find_center(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Top and left of a centre crop, in pixels; where it cannot be even, half a pixel up and left, as in transformers.

    Raises:
        ValueError: If the crop is larger than the picture.
    """
    if crop[0] > size[0] or crop[1] > size[1]:
        raise ValueError(
            f"a crop of {crop[0]} x {crop[1]} pixels (height x width) does not fit into a picture of {size[0]} x "
            f"{size[1]}; give a smaller crop_size or a larger size"
        )
    return (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2


def lay_back(
    values: np.ndarray,
    field: tuple[int, int],
    size: tuple[int, int],
    crop: tuple[int, int],
    mode: str,
) -> np.ndarray:
    """Lays a map of the processed picture back over the field that was resized for it.

    Args:
        values: float32 `[h, w]`, covering the centre crop, at any resolution.
        field: Height and width of the field in pixels of the original.
        size: Height and width of the canvas in pixels.
        crop: Height and width of its centre crop in pixels; `size` where there is none.
        mode: One of `RESIZE_MODES`.

    Returns:
        float32, of the field's height and width; 0 where a pixel's middle lies outside the crop.
    """
    top, left, inner_height, inner_width = find_placement(field, size, mode)
    above, beside = find_center(size, crop)
    down, across = values.shape[0] / crop[0], values.shape[1] / crop[1]
    # Pillow cuts its box out of what is there, so the values are continued over what the crop left out.
    before_rows, before_columns = int(np.ceil(above * down)), int(np.ceil(beside * across))
    after_rows = int(np.ceil((size[0] - crop[0] - above) * down))
    after_columns = int(np.ceil((size[1] - crop[1] - beside) * across))
    continued = np.pad(
        np.asarray(values, np.float32), ((before_rows, after_rows), (before_columns, after_columns)), mode="edge"
    )
    box = (
        (left - beside) * across + before_columns,
        (top - above) * down + before_rows,
        (left + inner_width - beside) * across + before_columns,
        (top + inner_height - above) * down + before_rows,
    )
    picture = Image.fromarray(continued).resize((field[1], field[0]), resample=Image.Resampling.BILINEAR, box=box)
    rows = top + (np.arange(field[0]) + 0.5) * inner_height / field[0] - above
    columns = left + (np.arange(field[1]) + 0.5) * inner_width / field[1] - beside
    seen = ((rows >= 0) & (rows < crop[0]))[:, None] & ((columns >= 0) & (columns < crop[1]))
    return np.where(seen, np.asarray(picture), np.float32(0))


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


logger = logging.get_logger(__name__)


def to_gray_plane(image: Any) -> np.ndarray:
    """One picture as a gray plane.

    Args:
        image: A PIL image of 8 bits, uint8 array or tensor (`[H, W]`, `[H, W, C]` or `[C, H, W]`), or float array in
            [0, 1]. Colour becomes luminance (ITU-R 601, as Pillow rounds it), and the EXIF orientation is applied.

    Returns:
        uint8 `[H, W]`.

    Raises:
        ValueError: If the picture has more than 8 bits, values out of range or an odd shape.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise ValueError(
                f"the picture has mode {image.mode}, more than 8 bits a pixel, and would be cut off; window "
                "it first, for instance with mura_hf.read_radiograph"
            )
        image = ImageOps.exif_transpose(image)
        rgb = image if image.mode in ("L", "RGB") else image.convert("RGB")
        plane = np.asarray(rgb.convert("L"))
    else:
        plane = _plane_from_array(_to_array(image))
    if plane.size and np.count_nonzero(plane == 255) > 0.9 * plane.size:
        logger.warning(
            "More than nine tenths of a picture are pure white. If its file has 16 bits, it was cut off on "
            "the way here: "
            "read it with mura_hf.read_radiograph, which windows it."
        )
    return plane


def _to_array(image: Any) -> np.ndarray:
    if not hasattr(image, "detach"):
        return np.asarray(image)
    tensor = image.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _plane_from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an array of shape {array.shape} is no picture; give [H, W], [H, W, C] or [C, H, W]")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ValueError(
                f"float pixels must lie in [0, 1], but these run from {low:g} to {high:g}; scale them first"
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"integer pixels must be uint8, not {array.dtype}; window them first, as mura_hf.read_radiograph does"
        )
    if array.ndim == 3:
        picture = array[..., 0] if array.shape[2] == 1 else array[..., :3]
        return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).convert("L"))
    return array


__all__ = [
    "RESIZE_MODES",
    "check_resize_mode",
    "find_center",
    "find_field_inside_border",
    "find_placement",
    "lay_back",
    "lay_on_canvas",
    "to_gray_plane",
]
