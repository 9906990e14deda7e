"""Calibrates a checkpoint on its calib split, chooses its operating points, its default and its bands, and writes them
to its config.json. Also fits its out-of-distribution detector and, if its data know regions of the body
(FracAtlas), a head that predicts them.
"""

import argparse
from collections.abc import Sequence

from transformers.utils import logging

from mura_hf.errors import MuraError
from mura_hf.evaluation import (
    describe_calibration,
    describe_ood_detector,
    describe_region_head,
    fit_checkpoint,
    load_splits,
)


def main(argv: Sequence[str] | None = None) -> None:
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--data_dir", required=True, help="the data that it was trained on")
    parser.add_argument(
        "--default_operating_point",
        help="operating point that predictions use by default, such as paper or youden; otherwise a screening point "
        "with a sensitivity of at least .85, if calib has enough studies to support it",
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args(argv)
    try:
        datasets, _ = load_splits(options.checkpoint, options.data_dir, "calib")
        done = fit_checkpoint(
            options.checkpoint,
            datasets,
            default_operating_point=options.default_operating_point,
            batch_size=options.batch_size,
            cpu=options.cpu,
        )
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(*describe_calibration(done.calibration), sep="\n")
    if done.region_head is not None:
        print(describe_region_head(done.region_head))
    if done.ood_detector is not None:
        print(*describe_ood_detector(done.ood_detector), sep="\n")
    print(*done.skipped, "Run scripts/evaluate.py now.", sep="\n")


if __name__ == "__main__":
    main()
