"""Draws pictures of a dataset with their boxes on one sheet: FracAtlas, GRAZPEDWRI-DX or phantoms."""

import argparse

from mura_hf.data import load_data
from mura_hf.data.box_sheet import draw_boxes
from mura_hf.errors import MuraError


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
