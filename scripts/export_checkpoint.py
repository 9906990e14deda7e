"""Copies a checkpoint with the model code, so that it loads with `trust_remote_code=True` where mura_hf is not
installed.
"""

import argparse

from mura_hf.errors import MuraError
from mura_hf.hub import export_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("output_dir", help="a new or empty folder")
    options = parser.parse_args()
    print(f"Exported: {export_checkpoint(options.checkpoint, options.output_dir)}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
