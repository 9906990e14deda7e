"""Trains the systems of the five studies, measures each on `valid`, and writes one table with the published figures.

    python scripts/reproduction/reproduce.py --study D --data_dir MURA-v1.1 --output_dir runs/study_d
    python scripts/reproduction/reproduce.py --study all --show        # no training: published figures and their flaws
    python scripts/reproduction/reproduce.py --systems                 # all systems, as a table

The same command resumes where it stopped: finished runs in the output folder are neither trained nor measured again.
If a run fails, the table says why, the others continue, and the exit status is 1.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from published import load_published
from runs import Budget, reproduce
from tables import render_table, write_tables

from mura_hf.common import home_folder
from mura_hf.errors import MuraError, TrainingStopped
from mura_hf.training import leave_processes

SYSTEMS_FILE = Path(__file__).with_name("systems.json")


def systems_table() -> str:
    """All systems of `systems.json` as a Markdown table."""
    lines = ["| study | system | config | class |", "| --- | --- | --- | --- |"]
    for study, systems in json.loads(SYSTEMS_FILE.read_text()).items():
        lines += [f"| {study} | {row['is']} | `{name}` | `{row['class']}` |" for name, row in systems.items()]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    known = list(load_published())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--study", nargs="+", choices=[*known, "all"], metavar="STUDY", help=f"{', '.join(known)}, or all"
    )
    parser.add_argument(
        "--show", action="store_true", help="only print the published figures, and what is wrong with them"
    )
    parser.add_argument("--systems", action="store_true", help="only print the table of all systems")
    parser.add_argument("--data_dir", help="folder of the data; the kind of data is detected")
    parser.add_argument("--output_dir", help="folder for the runs, and for reproduction.md, .csv and .json")
    parser.add_argument("--epochs", type=int, help="in each stage, instead of the configs'")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of train's patients to train on")
    parser.add_argument("--image_size", type=int, help="side in pixels of the models' input, instead of the configs'")
    parser.add_argument("--from_scratch", action="store_true", help="start from random weights; nothing is downloaded")
    parser.add_argument("--configs", nargs="+", metavar="CONFIG", help="run only these configs of the studies")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read files")
    parser.add_argument("--cache_dir", help="folder for resized pixels; default: mura_hf/pixels in the user's cache")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args(argv)
    if options.systems:
        print(systems_table(), end="")
        return
    if not options.study:
        parser.error("give --study, or --systems")
    studies = known if "all" in options.study else list(dict.fromkeys(options.study))
    if options.show:
        print(render_table(studies), end="")
        return
    if not options.data_dir or not options.output_dir:
        parser.error("give --data_dir and --output_dir, or --show")
    try:
        found = reproduce(
            options.data_dir,
            options.output_dir,
            studies,
            budget=Budget(options.epochs, options.fraction, options.image_size, options.from_scratch),
            configs=options.configs,
            cpu=options.cpu,
            num_workers=options.num_workers,
            cache_dir=options.cache_dir or home_folder() / "pixels",
        )
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(128 + stopped.signal_number) from None
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
    if not leave_processes():
        return  # the main process does the rest
    print(write_tables(studies, found, options.output_dir), end="")
    if found.failed:
        print(f"{len(found.failed)} of {len(found.failed) + len(found.records)} runs failed.", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
