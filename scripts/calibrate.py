"""Calibrates a checkpoint and chooses its operating points on its calib, writes both into its config.json, and teaches
it what studies it should not answer for.
"""

import argparse

from mura_hf.errors import MuraError
from mura_hf.evaluation import (
    calibrate_checkpoint,
    describe_calibration,
    describe_distribution,
    learn_distribution,
    load_splits,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--data_dir", required=True, help="what it was trained on")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()
    datasets, _ = load_splits(options.checkpoint, options.data_dir, "calib")
    place = {"batch_size": options.batch_size, "cpu": options.cpu}
    fit = calibrate_checkpoint(options.checkpoint, datasets["calib"], **place)
    print(*describe_calibration(fit), sep="\n")
    try:
        learned = learn_distribution(options.checkpoint, datasets["train"], datasets["calib"], **place)
        print(*describe_distribution(learned), sep="\n")
    except MuraError as error:
        print(f"It cannot tell when not to answer: {error}.")
    print("Run scripts/evaluate.py now.")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
