"""Lays phantoms of all body parts on one sheet, normal and abnormal twins in turn; real films below where given."""

import argparse
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mura_hf import read_radiograph
from mura_hf.errors import MuraError
from mura_hf.phantoms.findings import FINDINGS
from mura_hf.phantoms.rendering import BODY_PARTS, render_phantom

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=320, help="pixels of a picture's cell")
    parser.add_argument("--beside", nargs="*", default=[], help="radiographs for a last row, to compare with")
    options = parser.parse_args()
    beside = [(read_radiograph(file).pixels * 255).round().astype("uint8") for file in options.beside]
    sheet = make_contact_sheet(options.seed, side=options.side, beside=beside, progress=True)
    Image.fromarray(sheet).save(options.output)
    print(f"Contact sheet: {options.output}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
