"""Draws images of a data set with their boxes on one sheet: FracAtlas, GRAZPEDWRI-DX or phantoms."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from datasets import Dataset, Image

from mura_hf.data import load_data
from mura_hf.errors import DatasetError, MuraError
from mura_hf.models import LABELS
from mura_hf.radiographs import read_radiograph

_LINE = (255, 176, 0)  # orange, which no radiograph contains
_STRIP = 18  # pixels for the text below an image


def draw_boxes(
    rows: Dataset, path: str | Path, *, columns: int = 6, lines: int = 5, side: int = 260, seed: int = 0
) -> None:
    """Draws random images that have boxes, each with its study and label. Boxes are drawn one pixel larger.

    Args:
        rows: A split with the column `boxes`.
        path: PNG file to write.
        columns: Images in a row.
        lines: Rows of images.
        side: Side of a cell in pixels.
        seed: Of the choice of images.

    Raises:
        DatasetError: If no row has a box, or the file cannot be written.
    """
    marked = [n for n, boxes in enumerate(rows["boxes"]) if boxes] if "boxes" in rows.column_names else []
    if not marked:
        raise DatasetError("no image has a box, so there is nothing to draw; use data with boxes")
    drawn = np.random.default_rng(seed).permutation(marked)[: columns * lines]
    chosen = rows.cast_column("image", Image(decode=False)).select(sorted(drawn.tolist()))
    cells = [_draw(row, side) for row in chosen]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    sheet = np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])
    if not cv2.imwrite(str(path), sheet[..., ::-1]):
        raise DatasetError(f"{path} cannot be written; check that its folder exists and is writable")


def _draw(row: dict, side: int) -> np.ndarray:
    image = row["image"]
    plane = read_radiograph(image["path"] if image["bytes"] is None else image["bytes"]).to_uint8()
    scale = side / max(plane.shape)
    small = cv2.resize(plane, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.zeros((side + _STRIP, side, 3), np.uint8)
    cell[: small.shape[0], : small.shape[1]] = small[..., None]
    for x0, y0, x1, y1 in row["boxes"]:
        corners = (round(x0 * scale) - 2, round(y0 * scale) - 2), (round(x1 * scale) + 1, round(y1 * scale) + 1)
        cv2.rectangle(cell, *corners, _LINE, 1)
    text = f"{row['study_id'][-24:]} {LABELS[row['label']]}"
    cv2.putText(cell, text, (2, side + _STRIP - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (235, 235, 235), 1, cv2.LINE_AA)
    return cell


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", help="folder of the data; the kind of data is detected")
    parser.add_argument("--output", default="boxes.png", help="PNG file to write")
    parser.add_argument("--split", default="train", choices=["train", "dev", "calib", "valid"])
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--lines", type=int, default=5)
    parser.add_argument("--side", type=int, default=260, help="side of a cell in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    options = parser.parse_args(argv)
    shape = {"columns": options.columns, "lines": options.lines, "side": options.side}
    try:
        datasets, _ = load_data(options.data_dir)
        draw_boxes(datasets[options.split], options.output, **shape, seed=options.seed)
    except MuraError as error:
        raise SystemExit(str(error)) from None
    print(f"Boxes: {options.output}")


if __name__ == "__main__":
    main()
