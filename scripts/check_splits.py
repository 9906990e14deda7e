"""Checks with split manifests that no patient is in two splits, or in two datasets. Exits with 1 if one is.

With one manifest, its splits are compared with each other. With two, every split of the first is compared with every
split of the second, or only the pairs given by --pairs.
"""

import argparse
from collections.abc import Sequence

from mura_hf.data import read_manifest
from mura_hf.errors import MuraError


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="split_manifest.json of a run")
    parser.add_argument("other", nargs="?", help="split_manifest.json of another run")
    parser.add_argument("--pairs", nargs="+", metavar="SPLIT:SPLIT", help="such as train:valid; default: all pairs")
    options = parser.parse_args(argv)
    try:
        first = read_manifest(options.manifest)
        second = read_manifest(options.other) if options.other else first
        shared = first.shared_with(second)
    except MuraError as error:
        raise SystemExit(str(error)) from None
    if options.pairs:
        pairs = {tuple(pair.split(":")) for pair in options.pairs}
        unknown = [
            pair for pair in pairs if len(pair) != 2 or pair[0] not in first.splits or pair[1] not in second.splits
        ]
        if unknown:
            parser.error(f"no such splits: {unknown}; there are {sorted(first.splits)} and {sorted(second.splits)}")
        shared = {
            pair: count for pair, count in shared.items() if pair in pairs or (second is first and pair[::-1] in pairs)
        }
    for (ours, theirs), count in shared.items():
        print(f"{ours} and {theirs} share {count} patients")
    if shared:
        raise SystemExit(1)
    sizes = ", ".join(f"{split} {len(patients)}" for split, patients in first.splits.items())
    print(f"No patient is shared. Patients: {sizes}")


if __name__ == "__main__":
    main()
