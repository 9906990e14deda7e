"""Writes noise in MURA's layout with MURA's 40,005 rows, to try what reads the real one."""

import argparse

from mura_hf.data.counted_tree import write_counted_mura
from mura_hf.errors import MuraError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", required=True, help="a folder that holds no MURA-v1.1 yet")
    parser.add_argument("--withdrawn", action="store_true", help="with the counts of MURA v1.0, which is refused")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_counted_mura(options.output_dir, withdrawn=options.withdrawn, seed=options.seed))


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
