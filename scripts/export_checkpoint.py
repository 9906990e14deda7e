"""Exports a checkpoint with its model code: it loads with `trust_remote_code=True` without mura_hf."""

import argparse
from collections.abc import Sequence

from mura_hf.errors import MuraError
from mura_hf.hub import export_checkpoint


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("output_dir", help="a new or empty folder")
    options = parser.parse_args(argv)
    print(f"Exported: {export_checkpoint(options.checkpoint, options.output_dir)}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
