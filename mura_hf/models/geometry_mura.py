"""Where a picture's pixels lie in the processed picture, and how a map computed there comes back."""

from collections.abc import Callable

import numpy as np
from PIL import Image

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


__all__ = ["RESIZE_MODES", "check_resize_mode", "find_center", "find_placement", "lay_back", "lay_on_canvas"]
