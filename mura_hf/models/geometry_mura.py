"""Geometry of preprocessing: gray planes, resizing, cropping, and the way back for heatmaps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

logger = logging.get_logger(__name__)

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # orientation of EXIF -> how to undo it

RESIZE_MODES = ("letterbox", "squash")
_ROUNDING = 1e-3  # by which float pixels may exceed [0, 1]; a quarter of a gray level


def to_gray_plane(image: Any) -> np.ndarray:
    """Converts an image to one gray plane.

    Args:
        image: A PIL image of 8 bits, a uint8 array or tensor (`[H, W]`, `[H, W, C]` or `[C, H, W]`), or a float array
            in [0, 1]. Color becomes luminance (ITU-R 601, as Pillow rounds it), and the EXIF orientation is applied.

    Returns:
        uint8 `[H, W]`.

    Raises:
        ValueError: If the image has more than 8 bits, values out of range or an unsupported shape.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise ValueError(
                f"the image has mode {image.mode}, more than 8 bits per pixel, and would be clipped; window it first, "
                "for instance with mura_hf.read_radiograph"
            )
        image.load()  # applies and removes the orientation of a TIFF file
        image = _upright(image)
        rgb = image if image.mode in ("L", "RGB") else image.convert("RGB")
        plane = np.asarray(rgb.convert("L"))
    else:
        if isinstance(image, torch.Tensor):  # numpy has no bfloat16
            image = (image.float() if image.is_floating_point() else image).detach().cpu()
        plane = _plane_from_array(np.asarray(image))
    if plane.size and np.count_nonzero(plane == 255) > 0.9 * plane.size:
        logger.warning(
            "More than nine tenths of an image are pure white. If its file has 16 bits, the values were clipped "
            "before they got here: read it with mura_hf.read_radiograph, which windows it."
        )
    return plane


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation. If the metadata cannot be read, the image stays as it is."""
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # Pillow raises dozens of types
        return image
    return image.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else image


def _plane_from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an array of shape {array.shape} is not an image; give [H, W], [H, W, C] or [C, H, W]")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also true for NaN
            raise ValueError(f"float pixels must lie in [0, 1], but range from {low:g} to {high:g}; scale them first")
        array = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"integer pixels must be uint8, not {array.dtype}; window them first, as mura_hf.read_radiograph does"
        )
    if array.ndim == 3:
        image = array[..., 0] if array.shape[2] == 1 else array[..., :3]
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))
    return array


def find_placement(original: tuple[int, ...], size: tuple[int, int], mode: str) -> tuple[int, int, int, int]:
    """Returns top, left, height and width of an image after resizing to a canvas.

    `original` and `size` are height and width of the image and the canvas, `mode` is one of `RESIZE_MODES`.
    """
    if mode == "squash":
        return 0, 0, size[0], size[1]
    scale = min(size[0] / original[0], size[1] / original[1])
    height, width = max(1, round(original[0] * scale)), max(1, round(original[1] * scale))
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def resize_to_canvas(
    plane: np.ndarray,
    size: tuple[int, int],
    mode: str,
    resample: int,
    enhance: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Resizes a plane and places it on a black canvas, which remains visible as the bars of a letterbox.

    Args:
        plane: uint8 `[H, W]`.
        size: Height and width of the canvas in pixels.
        mode: One of `RESIZE_MODES`.
        resample: One of `PIL.Image.Resampling`.
        enhance: Function that is applied to the resized plane and keeps its shape.
    """
    top, left, height, width = find_placement(plane.shape, size, mode)
    resized = np.asarray(Image.fromarray(plane).resize((width, height), resample=Image.Resampling(resample)))
    if enhance is not None:
        resized = enhance(resized)
    if mode == "squash":
        return resized
    canvas = np.zeros(size, np.uint8)
    canvas[top : top + height, left : left + width] = resized
    return canvas


def find_center(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Returns top and left of a center crop in pixels, rounded down as in transformers.

    Raises:
        ValueError: If the crop is larger than the image.
    """
    if crop[0] > size[0] or crop[1] > size[1]:
        raise ValueError(
            f"a crop of {crop[0]} x {crop[1]} pixels (height x width) does not fit into an image of {size[0]} x "
            f"{size[1]}; give a smaller crop_size or a larger size"
        )
    return (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2


def resize_back(
    values: np.ndarray, original: tuple[int, int], size: tuple[int, int], crop: tuple[int, int], mode: str
) -> np.ndarray:
    """Resizes a map of the processed image back to the original image.

    Args:
        values: float32 `[h, w]`, covering the center crop, at any resolution.
        original: Height and width of the original in pixels.
        size: Height and width of the canvas in pixels.
        crop: Height and width of the center crop in pixels; `size` if there is none.
        mode: One of `RESIZE_MODES`.

    Returns:
        float32 with height and width of the original; 0 for pixels whose center lies outside the crop.
    """
    top, left, inner_height, inner_width = find_placement(original, size, mode)
    above, beside = find_center(size, crop)
    down, across = values.shape[0] / crop[0], values.shape[1] / crop[1]
    # The box of Pillow's resize must lie inside the array, so the edges are continued over what the crop left out.
    rows_before, columns_before = int(np.ceil(above * down)), int(np.ceil(beside * across))
    rows_after = int(np.ceil((size[0] - crop[0] - above) * down))
    columns_after = int(np.ceil((size[1] - crop[1] - beside) * across))
    padded = np.pad(
        np.asarray(values, np.float32), ((rows_before, rows_after), (columns_before, columns_after)), mode="edge"
    )
    box = (
        (left - beside) * across + columns_before,
        (top - above) * down + rows_before,
        (left + inner_width - beside) * across + columns_before,
        (top + inner_height - above) * down + rows_before,
    )
    resized = Image.fromarray(padded).resize((original[1], original[0]), resample=Image.Resampling.BILINEAR, box=box)
    rows = top + (np.arange(original[0]) + 0.5) * inner_height / original[0] - above
    columns = left + (np.arange(original[1]) + 0.5) * inner_width / original[1] - beside
    visible = ((rows >= 0) & (rows < crop[0]))[:, None] & ((columns >= 0) & (columns < crop[1]))
    return np.where(visible, np.asarray(resized), np.float32(0))
