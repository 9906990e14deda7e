"""Measures a checkpoint on a split of its data, or on valid of others; writes evaluation.json and plots beside its
weights. What it says is kept, so that a second look computes nothing anew.
"""

import argparse

from mura_hf.errors import MuraError
from mura_hf.evaluation import compare_checkpoints, describe_evaluation, evaluate_checkpoint, load_splits
from mura_hf.evaluation.evaluation import PREVALENCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--data_dir", required=True, help="the folder of the data")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"])
    parser.add_argument("--threshold", type=float, help="abnormal strictly above it, instead of the checkpoint's own")
    parser.add_argument(
        "--prevalence", type=float, default=PREVALENCE, help="share of abnormal studies for the predictive values"
    )
    parser.add_argument("--against", help="folder of another checkpoint, to be compared on the same studies")
    parser.add_argument("--twins", type=int, default=0, help="patients to render with and without a finding")
    parser.add_argument(
        "--foreign", nargs="*", default=[], metavar="NAME=FOLDER", help="pictures that it should refuse to answer for"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--cache_dir", help="where answers are kept; mura_hf/answers in the user's cache folder")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()
    if options.against and options.threshold is not None:
        parser.error("--against compares each checkpoint at its own threshold; leave --threshold out")
    if not all("=" in word for word in options.foreign):
        parser.error("--foreign takes NAME=FOLDER, such as legs=films/legs")
    datasets, data = load_splits(options.checkpoint, options.data_dir, options.split)
    rows = datasets[options.split]
    place = {"batch_size": options.batch_size, "cpu": options.cpu, "cache_dir": options.cache_dir}
    report = evaluate_checkpoint(
        options.checkpoint,
        rows,
        options.split,
        train=datasets.get("train"),
        data=data,
        threshold=options.threshold,
        prevalence=options.prevalence,
        twins=options.twins,
        foreign=dict(word.split("=", 1) for word in options.foreign),
        **place,
    )
    if options.against:
        theirs, _ = load_splits(options.against, options.data_dir, options.split)
        report = compare_checkpoints(options.checkpoint, options.against, rows, theirs[options.split], **place)
    print(*describe_evaluation(report), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
