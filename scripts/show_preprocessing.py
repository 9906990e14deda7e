"""Draws what every option of the image processor does to radiographs, or to phantoms where no file is given."""

import argparse
from pathlib import Path

from mura_hf import read_radiograph
from mura_hf.data.preprocessing_sheet import draw_preprocessing
from mura_hf.errors import MuraError
from mura_hf.phantoms import render_phantom

PHANTOMS = {"wrist": 3, "hand": 5, "elbow": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="radiographs, a row each")
    parser.add_argument("--output", default="preprocessing.png", help="PNG file to write")
    parser.add_argument("--size", type=int, default=320, help="pixels a side of the processed pictures")
    options = parser.parse_args()
    pictures = {Path(file).stem: read_radiograph(file).to_uint8() for file in options.files}
    if not pictures:
        pictures = {f"phantom {part}": render_phantom(seed, body_part=part).pixels for part, seed in PHANTOMS.items()}
    draw_preprocessing(pictures, options.output, size=options.size)
    print(f"Preprocessing: {options.output}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
