"""Writes a dataset of synthetic studies in the layout of MURA v1.1."""

import argparse
import os
from collections.abc import Sequence

from mura_hf.errors import MuraError
from mura_hf.phantoms import BODY_PARTS, EXPOSURES, FINDINGS, UNUSUAL_FINDINGS, write_phantom_mura


def _parse_share(text: str) -> tuple[str, float]:
    finding, _, share = text.partition("=")
    if finding not in FINDINGS:
        raise argparse.ArgumentTypeError(f"unknown finding {finding!r}; known are {', '.join(FINDINGS)}")
    return finding, float(share)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", required=True, help="new or empty folder")
    parser.add_argument("--n_studies", type=int, default=1000, help="studies in train and valid together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--valid_fraction", type=float, default=0.2)
    parser.add_argument("--size", type=int, default=512, help="pixels on the long side")
    parser.add_argument(
        "--counterfactuals", "--twins", action="store_true",
        help="add the same patient without the finding to every abnormal study of train",
    )  # fmt: skip
    parser.add_argument("--planted_marker", action="store_true", help="side markers that reveal the label")
    parser.add_argument("--body_parts", nargs="+", choices=BODY_PARTS, help="some of the body parts (default: all)")
    parser.add_argument(
        "--findings", nargs="+", choices=[*FINDINGS, *UNUSUAL_FINDINGS],
        help="findings of abnormal studies, in equal shares (default: a fixed mix)",
    )  # fmt: skip
    parser.add_argument(
        "--train_shares", nargs="+", type=_parse_share, metavar="FINDING=SHARE",
        help="shares of findings in train only, such as dislocation=0.25; the others share the rest",
    )  # fmt: skip
    parser.add_argument("--exposure", choices=list(EXPOSURES), default="standard", help="exposure of the films")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="number of processes")
    options = vars(parser.parse_args(argv))
    options["train_shares"] = dict(options["train_shares"] or ())
    tree = write_phantom_mura(options.pop("output_dir"), **options)
    print(f"Synthetic studies in the layout of MURA v1.1: {tree}")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
