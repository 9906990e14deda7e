"""Evaluates a checkpoint on a split of its data, or on valid of other data. Writes evaluation.json and plots to its
folder. Predictions are cached, so a second evaluation needs no forward pass.
"""

import argparse
from collections.abc import Sequence

from transformers.utils import logging

from mura_hf.errors import MuraError
from mura_hf.evaluation import (
    compare_checkpoints,
    describe_evaluation,
    describe_verdict,
    evaluate_checkpoint,
    load_splits,
)
from mura_hf.evaluation.evaluation import PREVALENCE


def main(argv: Sequence[str] | None = None) -> None:
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--data_dir", required=True, help="folder of the data")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"])
    parser.add_argument(
        "--prevalence", type=float, default=PREVALENCE, help="share of abnormal studies for the predictive values"
    )
    parser.add_argument(
        "--compare", "--against", metavar="CHECKPOINT", help="folder of a checkpoint to compare on the same studies"
    )
    parser.add_argument(
        "--ood", "--foreign", nargs="*", default=[], metavar="NAME=FOLDER",
        help="folders of images that the checkpoint should flag as out of distribution",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument(
        "--cache_dir", help="folder of cached predictions; default: mura_hf/predictions in the user's cache"
    )
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args(argv)
    if not all("=" in word for word in options.ood):
        parser.error("--ood takes NAME=FOLDER, such as legs=films/legs")
    try:
        datasets, data = load_splits(options.checkpoint, options.data_dir, options.split)
        rows = datasets[options.split]
        place = {"batch_size": options.batch_size, "cpu": options.cpu, "cache_dir": options.cache_dir}
        report = evaluate_checkpoint(
            options.checkpoint,
            rows,
            options.split,
            train=datasets.get("train"),
            data=data,
            prevalence=options.prevalence,
            ood_folders=dict(word.split("=", 1) for word in options.ood),
            **place,
        )
        if options.compare:
            other_datasets, _ = load_splits(options.compare, options.data_dir, options.split)
            report = compare_checkpoints(
                options.checkpoint, options.compare, rows, other_datasets[options.split], **place
            )
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(*describe_evaluation(report), f"\n{describe_verdict(report)}", sep="\n")


if __name__ == "__main__":
    main()
