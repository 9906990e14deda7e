"""Draws phantoms of all body parts on one sheet, each normal one beside its abnormal twin, and radiographs below."""

import argparse
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mura_hf import read_radiograph
from mura_hf.errors import MuraError
from mura_hf.phantoms import BODY_PARTS, FINDINGS, render_phantom

_BORDER, _PROJECTIONS = 4, 3


def make_contact_sheet(
    seed: int = 0,
    *,
    side: int = 320,
    beside: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Draws a row for each body part: three projections of a normal patient, each beside its abnormal twin.

    Args:
        seed: Of the first patient; each body part has another one.
        side: Side of a cell in pixels.
        beside: Further images for a row below, such as radiographs to compare with, uint8 `[H, W]`.

    Returns:
        uint8 `[rows * side, 6 * side]`.
    """
    rows = []
    for number, part in enumerate(tqdm(BODY_PARTS, desc="Contact sheet")):
        images = [
            render_phantom(seed + number, body_part=part, view=view, finding=finding, size=side - _BORDER).pixels
            for view in range(_PROJECTIONS)
            for finding in (None, FINDINGS[(seed + number) % len(FINDINGS)])
        ]
        rows.append(_row(images, side))
    if beside:
        rows.append(_row([_fit(image, side - _BORDER) for image in beside][: 2 * _PROJECTIONS], side))
    return np.vstack(rows)


def _fit(image: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(image.shape)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _row(images: Sequence[np.ndarray], side: int) -> np.ndarray:
    row = np.full((side, 2 * _PROJECTIONS * side), 48, np.uint8)
    for place, image in enumerate(images):
        height, width = image.shape
        left = place * side + (side - width) // 2
        row[(side - height) // 2 : (side - height) // 2 + height, left : left + width] = image
    return row


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=320, help="side of a cell in pixels")
    parser.add_argument("--beside", nargs="*", default=[], help="radiographs to add in a last row")
    options = parser.parse_args(argv)
    try:
        beside = [read_radiograph(file).to_uint8() for file in options.beside]
    except MuraError as error:
        raise SystemExit(str(error)) from None
    sheet = make_contact_sheet(options.seed, side=options.side, beside=beside)
    Image.fromarray(sheet).save(options.output)
    print(f"Contact sheet: {options.output}")


if __name__ == "__main__":
    main()
