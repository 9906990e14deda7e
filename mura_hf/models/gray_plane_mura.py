"""Any picture as one gray plane of 8 bits."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.utils import logging

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


__all__ = ["to_gray_plane"]
