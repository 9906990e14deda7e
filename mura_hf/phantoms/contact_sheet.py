"""Many phantoms on one sheet, to look at."""

from collections.abc import Sequence

import cv2
import numpy as np
from tqdm.auto import tqdm

from .findings import FINDINGS
from .phantom import BODY_PARTS
from .rendering import render_phantom

_BORDER, _PROJECTIONS = 4, 3


def make_contact_sheet(
    seed: int = 0,
    *,
    side: int = 320,
    beside: Sequence[np.ndarray] = (),
    progress: bool = False,
) -> np.ndarray:
    """Lays out the seven body parts, a row each: three projections of a normal patient, each beside its abnormal twin.

    Args:
        seed: Of the first patient; every part has another.
        side: Of a picture's cell in pixels.
        beside: uint8 `[H, W]`, further pictures for a row of their own, such as real films to compare with.
        progress: Whether to show a progress bar.

    Returns:
        uint8 `[rows * side, 6 * side]`.
    """
    rows = []
    for number, part in enumerate(tqdm(BODY_PARTS, desc="Contact sheet", disable=not progress)):
        pictures = [
            render_phantom(seed + number, body_part=part, view=view, finding=finding, size=side - _BORDER).pixels
            for view in range(_PROJECTIONS)
            for finding in (None, FINDINGS[(seed + number) % len(FINDINGS)])
        ]
        rows.append(_row(pictures, side))
    if beside:
        rows.append(_row([_fit(picture, side - _BORDER) for picture in beside][: 2 * _PROJECTIONS], side))
    return np.vstack(rows)


def _fit(picture: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(picture.shape)
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _row(pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    row = np.full((side, 2 * _PROJECTIONS * side), 48, np.uint8)
    for place, picture in enumerate(pictures):
        height, width = picture.shape
        left = place * side + (side - width) // 2
        row[(side - height) // 2 : (side - height) // 2 + height, left : left + width] = picture
    return row
