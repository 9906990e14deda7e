"""Draws the pictures with which evaluations measure out-of-distribution detection: text, textures, chests and skulls.

Run it after a change of `scripts/unrelated`: `python scripts/make_unrelated.py`. Evaluations only read the sheets, one
for each kind.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from unrelated.images import render_unrelated

from mura_hf.evaluation.ood_detection import FIRST_SEED, SHEET_COLUMNS, SHEET_ROWS, UNRELATED

SIDES = {"text": 192, "texture": 192, "chest": 512, "skull": 384}
"""Kind -> side of its pictures in pixels. Chests resemble shoulders, so their details matter."""


def draw_sheet(kind: str, first_seed: int = FIRST_SEED) -> np.ndarray:
    """Draws the pictures of a kind side by side, resized to squares: uint8 `[H, W]`."""
    pictures = []
    for number in range(SHEET_COLUMNS * SHEET_ROWS):
        picture = render_unrelated(first_seed + number, kind)
        shrinks = max(picture.shape) > SIDES[kind]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        pictures.append(cv2.resize(picture, (SIDES[kind], SIDES[kind]), interpolation=interpolation))
    rows = (pictures[start : start + SHEET_COLUMNS] for start in range(0, len(pictures), SHEET_COLUMNS))
    return np.vstack([np.hstack(row) for row in rows])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=UNRELATED)
    parser.add_argument("--kinds", nargs="+", choices=list(SIDES), default=list(SIDES))
    options = parser.parse_args(argv)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for kind in options.kinds:
        file = options.output_dir / f"{kind}.webp"
        Image.fromarray(draw_sheet(kind)).save(file, "WEBP", quality=75, method=6)
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
