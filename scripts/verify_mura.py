"""Verifies a copy of MURA v1.1: decodes every image and compares all counts with the official ones.

Files that cannot be used are listed in quarantine.csv, beside the lists of MURA; `load_mura` leaves them out from then
on. The exit status is 1 if anything differs.
"""

import argparse
from collections.abc import Sequence

from mura_hf.data import verify_mura
from mura_hf.errors import MuraError

SHOWN = 10  # entries of each kind that are printed


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder MURA-v1.1, or the folder that contains it")
    parser.add_argument("--body_parts", nargs="+", help="verify only these body parts")
    parser.add_argument("--workers", type=int, help="threads; default: one for each core")
    options = parser.parse_args(argv)
    try:
        found = verify_mura(options.root, options.body_parts, workers=options.workers)
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(f"{found.tree}: {found.n_files} images decoded")
    if found.counts:
        print(f"Compared with MURA v1.1:\n{found.counts}")
    for what, entries in found.differences.items():
        print(f"{what.capitalize()} ({len(entries)}):")
        for entry in entries[:SHOWN]:
            print(f"  {entry}")
        if len(entries) > SHOWN:
            print(f"  and {len(entries) - SHOWN} more")
    if found.quarantine:
        print(f"Files in quarantine.csv, which load_mura leaves out with a message: {len(found.quarantine)}")
    if not found.whole:
        raise SystemExit(1)
    print("Nothing differs.")


if __name__ == "__main__":
    main()
