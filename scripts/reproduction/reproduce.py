"""Trains the recipes of a study, measures them, and writes one table of ours beside the study's own figures.

Goes on where it stopped: runs that stand in --output_dir are neither trained nor measured again. A recipe that fails
is a line that says why; the others go on, and the exit status is 1 at the end. With --show nothing is run.
"""

import argparse
import sys

from reproduction import Budget, reproduce
from tables import render_table, write_tables

from mura_hf.data import home_folder
from mura_hf.errors import MuraError, TrainingStopped
from mura_hf.evaluation import load_published
from mura_hf.training import leave_processes


def main() -> None:
    known = list(load_published())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", nargs="+", required=True, choices=[*known, "all"], metavar="STUDY",
                        help=f"{', '.join(known)}, or all")  # fmt: skip
    parser.add_argument("--show", action="store_true", help="print what the studies printed, and what cannot be")
    parser.add_argument("--data_dir", help="the folder of the data; which they are is seen")
    parser.add_argument("--output_dir", help="for the runs, and reproduction.md, .csv and .json")
    parser.add_argument("--epochs", type=int, help="in each stage, instead of the recipes'")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of train's patients to train on")
    parser.add_argument("--image_size", type=int, help="side in pixels of what models see, instead of the recipes'")
    parser.add_argument("--from_scratch", action="store_true", help="start from random weights: nothing is downloaded")
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="some of the studies' recipes only")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read files")
    parser.add_argument(
        "--cache_dir", help="of resized pixels; where left out, mura_hf/pixels in the user's cache folder"
    )
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()
    studies = known if "all" in options.study else list(dict.fromkeys(options.study))
    if options.show:
        print(render_table(studies), end="")
        return
    if not options.data_dir or not options.output_dir:
        parser.error("give --data_dir and --output_dir, or --show")
    reached = reproduce(
        options.data_dir,
        options.output_dir,
        studies,
        budget=Budget(options.epochs, options.fraction, options.image_size, options.from_scratch),
        recipes=options.recipes,
        cpu=options.cpu,
        num_workers=options.num_workers,
        cache_dir=options.cache_dir or home_folder() / "pixels",
    )
    if not leave_processes():
        return  # the main process does the rest
    print(write_tables(studies, reached, options.output_dir), end="")
    if reached.failed:
        print(f"{len(reached.failed)} of {len(reached.failed) + len(reached.records)} runs failed.", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    try:
        main()
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(128 + stopped.signal_number) from None
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
