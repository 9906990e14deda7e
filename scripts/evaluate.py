"""Measures a checkpoint on a split of its data, or on valid of others; writes evaluation.json beside its weights."""

import argparse

from mura_hf.assessment import describe_evaluation, evaluate_checkpoint, load_split
from mura_hf.errors import MuraError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--data_dir", required=True, help="the folder of the data")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"])
    parser.add_argument("--twins", type=int, default=0, help="patients to render with and without a finding")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()
    rows, data = load_split(options.checkpoint, options.data_dir, options.split)
    report = evaluate_checkpoint(
        options.checkpoint,
        rows,
        options.split,
        data=data,
        batch_size=options.batch_size,
        twins=options.twins,
        cpu=options.cpu,
    )
    print(*describe_evaluation(report), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
