"""Calibrates a checkpoint and chooses its operating points on its calib, and writes both into its config.json."""

import argparse

from mura_hf.assessment import calibrate_checkpoint, describe_calibration, load_split
from mura_hf.errors import MuraError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--data_dir", required=True, help="what it was trained on")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()
    rows, _ = load_split(options.checkpoint, options.data_dir, "calib")
    fit = calibrate_checkpoint(options.checkpoint, rows, batch_size=options.batch_size, cpu=options.cpu)
    print(*describe_calibration(fit), "Run scripts/evaluate.py now.", sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
