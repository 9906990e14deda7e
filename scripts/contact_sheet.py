"""Lays phantoms of all body parts on one sheet, normal and abnormal twins in turn; real films below where given."""

import argparse

from PIL import Image

from mura_hf import read_radiograph
from mura_hf.errors import MuraError
from mura_hf.phantoms import make_contact_sheet


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
