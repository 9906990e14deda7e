"""Decodes every picture of a copy of MURA v1.1, compares its counts with the official ones, and writes quarantine.csv
beside its lists: files that load_mura leaves out from then on. Exits with 1 where anything differs.
"""

import argparse

from mura_hf.data import verify_mura
from mura_hf.errors import MuraError

SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="the folder MURA-v1.1, or the one that holds it")
    parser.add_argument("--body_parts", nargs="+", help="look at some parts only")
    parser.add_argument("--workers", type=int, help="threads; one a core where left out")
    options = parser.parse_args()
    found = verify_mura(options.root, options.body_parts, workers=options.workers)
    print(f"{found.tree}: {found.n_files} pictures decoded")
    if found.counts:
        print(f"Against MURA v1.1:\n{found.counts}")
    for what, entries in found.differences.items():
        print(f"{len(entries)} {what}:")
        for entry in entries[:SHOWN]:
            print(f"  {entry}")
        if len(entries) > SHOWN:
            print(f"  and {len(entries) - SHOWN} more")
    if found.quarantine:
        print(f"quarantine.csv names {len(found.quarantine)} files; load_mura leaves them out, and says so.")
    if not found.whole:
        raise SystemExit(1)
    print("Nothing differs.")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
