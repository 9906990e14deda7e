"""Checks that splits share no patient (with manifests), or no near-duplicate images (with data). Else exits with 1.

With one manifest, its splits are compared with each other. With two, every split of the first is compared with every
split of the second, or only the pairs given by --pairs.

With --data_dir, the images of its splits are compared with each other; with --against, each with each of the other
folder. Both may be any dataset that training accepts, or a folder of images.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from mura_hf.data import MIN_CORRELATION, detect_source, find_leaks, load_data, read_manifest
from mura_hf.errors import DatasetError, MuraError
from mura_hf.radiographs import find_kind
from mura_hf.training import load_config


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", help="split_manifest.json of a run")
    parser.add_argument("other", nargs="?", help="split_manifest.json of another run")
    parser.add_argument("--pairs", nargs="+", metavar="SPLIT:SPLIT", help="such as train:valid; default: all pairs")
    parser.add_argument("--data_dir", help="folder of the data whose images are compared")
    parser.add_argument(
        "--config", help="name or YAML file of a training config, whose cut is checked; else the default cut"
    )
    parser.add_argument("--against", metavar="FOLDER", help="folder of other data")
    parser.add_argument("--json", metavar="FILE", help="file for the near-duplicates that are found")
    options = parser.parse_args(argv)
    if (options.manifest is None) == (options.data_dir is None):
        parser.error("give either a manifest or --data_dir")
    if (options.data_dir is None and (options.against or options.json)) or (options.data_dir and options.pairs):
        parser.error("--against and --json go with --data_dir, and --pairs with manifests")
    try:
        found = _compare_images(options) if options.data_dir else _compare_manifests(parser, options)
    except MuraError as error:
        raise SystemExit(str(error)) from None
    if found:
        raise SystemExit(1)


def _compare_images(options: argparse.Namespace) -> bool:
    splits = _load(options.data_dir, load_config(options.config).split_options() if options.config else {})
    leaks = find_leaks(splits, _load(options.against) if options.against else None)
    if options.json:
        Path(options.json).write_text(json.dumps(leaks, indent=2) + "\n")
    sizes = ", ".join(f"{split} {len(rows)}" for split, rows in splits.items())
    if not leaks:
        print(f"No two images have thumbnails with a correlation above {MIN_CORRELATION}. Images: {sizes}")
        return False
    print(f"{'splits':20}{'correlation':>12}  studies")
    for leak in leaks:
        notes = [word for word in ("mirrored", "contradictory") if leak[word]]
        print(f"{' and '.join(leak['splits']):20}{leak['correlation']:12.4f}  {', '.join([*leak['studies'], *notes])}")
    print(f"Pairs of near-duplicates: {len(leaks)}. Images: {sizes}")
    return True


def _load(folder: str, cut: dict[str, Any] | None = None) -> dict[str, Dataset]:
    """Loads the splits of a dataset, or the images of a folder as one split with its name."""
    try:
        detect_source(folder)
    except DatasetError:
        files = sorted(file for file in Path(folder).rglob("*") if file.is_file() and find_kind(file) == "view")
        if not files:
            raise
    else:
        return dict(load_data(folder, **(cut or {}))[0])
    names = [str(file.relative_to(folder)) for file in files]
    rows: dict[str, Any] = {"image": list(map(str, files)), "study_id": names, "label": [None] * len(files)}
    return {Path(folder).resolve().name: Dataset.from_dict(rows).cast_column("image", Image(decode=False))}


def _compare_manifests(parser: argparse.ArgumentParser, options: argparse.Namespace) -> bool:
    first = read_manifest(options.manifest)
    second = read_manifest(options.other) if options.other else first
    shared = first.shared_with(second)
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
    if not shared:
        sizes = ", ".join(f"{split} {len(patients)}" for split, patients in first.splits.items())
        print(f"No patient is shared. Patients: {sizes}")
    return bool(shared)


if __name__ == "__main__":
    main()
