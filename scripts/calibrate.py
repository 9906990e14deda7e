"""Calibrates a checkpoint on its calib split, chooses its operating points, its default and its bands, and writes them
to its config.json. Also fits its out-of-distribution detector and, if its data know regions of the body
(FracAtlas), a head that predicts them.
"""

import argparse
from collections.abc import Sequence

from transformers.utils import logging

from mura_hf.errors import CheckpointError, MuraError
from mura_hf.evaluation import (
    calibrate_checkpoint,
    describe_calibration,
    describe_ood_detector,
    describe_region_head,
    fit_ood_detector,
    fit_region_head,
    load_splits,
)
from mura_hf.evaluation.region_head import single_regions


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
    parser.add_argument("--only_regions", action="store_true", help="fit the head for the region, and nothing else")
    options = parser.parse_args(argv)
    place = {"batch_size": options.batch_size, "cpu": options.cpu}
    try:
        datasets, _ = load_splits(options.checkpoint, options.data_dir, "calib")
        if options.only_regions or len(single_regions(datasets["train"])) > 1:
            try:
                print(describe_region_head(fit_region_head(options.checkpoint, datasets["train"], **place)))
            except CheckpointError as error:
                if options.only_regions:
                    raise
                print(f"No head for the region of the body: {error}.")
        if options.only_regions:
            print("Run scripts/evaluate.py now.")
            return
        fit = calibrate_checkpoint(
            options.checkpoint, datasets["calib"], default_operating_point=options.default_operating_point, **place
        )
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(*describe_calibration(fit), sep="\n")
    try:
        detector = fit_ood_detector(options.checkpoint, datasets["train"], datasets["calib"], **place)
        print(*describe_ood_detector(detector), sep="\n")
    except MuraError as error:
        print(f"No out-of-distribution detection: {error}.")
    print("Run scripts/evaluate.py now.")


if __name__ == "__main__":
    main()
