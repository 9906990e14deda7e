"""Draws pictures of a dataset with their boxes on one sheet: FracAtlas, GRAZPEDWRI-DX or phantoms."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from datasets import Dataset, Image

from mura_hf.data import load_data
from mura_hf.errors import DatasetError, MuraError
from mura_hf.models.configuration_mura import LABELS
from mura_hf.radiographs import read_radiograph

_LINE = (255, 176, 0)  # orange, which no film has
_STRIP = 18  # pixels for the words below a picture


def draw_boxes(
    rows: Dataset, path: str | Path, *, columns: int = 6, lines: int = 5, side: int = 260, seed: int = 0
) -> None:
    """Draws pictures with boxes, each with its study and label; the boxes stand a little outside of what they mark.

    Args:
        rows: A split with the column `boxes`.
        path: PNG file to write.
        columns: Pictures side by side.
        lines: Of pictures.
        side: Of a picture in pixels.
        seed: Of which are drawn by lot.

    Raises:
        DatasetError: If no row has a box.
    """
    marked = [n for n, boxes in enumerate(rows["boxes"]) if boxes] if "boxes" in rows.column_names else []
    if not marked:
        raise DatasetError("no picture has a box, so there is nothing to draw; use data with boxes")
    drawn = np.random.default_rng(seed).permutation(marked)[: columns * lines]
    chosen = rows.cast_column("image", Image(decode=False)).select(sorted(drawn.tolist()))
    cells = [_draw(row, side) for row in chosen]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    sheet = np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])
    if not cv2.imwrite(str(path), sheet[..., ::-1]):
        raise DatasetError(f"{path} cannot be written; check that its folder is there and writable")


def _draw(row: dict, side: int) -> np.ndarray:
    picture = row["image"]
    plane = read_radiograph(picture["path"] if picture["bytes"] is None else picture["bytes"]).to_uint8()
    scale = side / max(plane.shape)
    small = cv2.resize(plane, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.zeros((side + _STRIP, side, 3), np.uint8)
    cell[: small.shape[0], : small.shape[1]] = small[..., None]
    for x0, y0, x1, y1 in row["boxes"]:
        corners = (round(x0 * scale) - 2, round(y0 * scale) - 2), (round(x1 * scale) + 1, round(y1 * scale) + 1)
        cv2.rectangle(cell, *corners, _LINE, 1)
    words = f"{row['study_id'][-24:]} {LABELS[row['label']]}"
    cv2.putText(cell, words, (2, side + _STRIP - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (235, 235, 235), 1, cv2.LINE_AA)
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", help="the folder of the data; which they are is seen")
    parser.add_argument("--output", default="boxes.png", help="PNG file to write")
    parser.add_argument("--split", default="train", choices=["train", "dev", "calib", "valid"])
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--lines", type=int, default=5)
    parser.add_argument("--side", type=int, default=260, help="of a picture in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of which are drawn by lot")
    options = parser.parse_args()
    datasets, _ = load_data(options.data_dir)
    shape = {"columns": options.columns, "lines": options.lines, "side": options.side}
    draw_boxes(datasets[options.split], options.output, **shape, seed=options.seed)
    print(f"Boxes: {options.output}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
