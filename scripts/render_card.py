"""Renders a checkpoint's model card from its records."""

import argparse
from pathlib import Path

from mura_hf.errors import MuraError
from mura_hf.hub import render_card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--name", required=True, help="name of the checkpoint, as on the Hub")
    parser.add_argument("--output", required=True, help="Markdown file to write")
    parser.add_argument("--pictures", default="", help="what to put before the names of plots that lie elsewhere")
    options = parser.parse_args()
    Path(options.output).write_text(render_card(options.checkpoint, options.name, pictures=options.pictures))
    print(f"Card written: {options.output}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
