"""Renders a checkpoint's model card from its records."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mura_hf.errors import MuraError
from mura_hf.hub import render_card


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--name", required=True, help="name of the checkpoint on the Hub, or of a bundled one")
    parser.add_argument("--output", required=True, help="Markdown file to write")
    parser.add_argument("--pictures", default="", help="prefix for the file names of plots in another folder")
    options = parser.parse_args(argv)
    Path(options.output).write_text(render_card(options.checkpoint, options.name, pictures=options.pictures))
    print(f"Card written: {options.output}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
