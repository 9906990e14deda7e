"""Writes a folder of synthetic studies in the layout of MURA v1.1."""

import argparse
import os

from mura_hf.errors import MuraError
from mura_hf.phantoms import BODY_PARTS, EXPOSURES, FINDINGS, UNUSUAL_FINDINGS, write_phantom_mura


def _share(told: str) -> tuple[str, float]:
    finding, _, share = told.partition("=")
    if finding not in FINDINGS:
        raise argparse.ArgumentTypeError(f"no finding {finding!r}; choose among {', '.join(FINDINGS)}")
    return finding, float(share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", required=True, help="a new or empty folder")
    parser.add_argument("--n_studies", type=int, default=1000, help="train and valid together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--valid_fraction", type=float, default=0.2)
    parser.add_argument("--size", type=int, default=512, help="pixels on the long side")
    parser.add_argument("--twins", action="store_true", help="give every abnormal study of train its normal twin")
    parser.add_argument("--views_tell", action="store_true", help="more views where abnormal, as in MURA")
    parser.add_argument("--planted_marker", action="store_true", help="let a side marker give the label away")
    parser.add_argument("--body_parts", nargs="+", choices=BODY_PARTS, help="some of the seven; all where left out")
    parser.add_argument(
        "--findings", nargs="+", choices=[*FINDINGS, *UNUSUAL_FINDINGS],
        help="what abnormal studies show, each as often as the others; a fixed mix where left out",
    )  # fmt: skip
    parser.add_argument(
        "--train_shares", nargs="+", type=_share, metavar="FINDING=SHARE",
        help="of the abnormal studies of train only, such as dislocation=0.25; the other findings share the rest",
    )  # fmt: skip
    parser.add_argument("--exposure", choices=list(EXPOSURES), default="standard", help="how the films are exposed")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    tree = write_phantom_mura(
        options.output_dir,
        options.n_studies,
        options.seed,
        valid_fraction=options.valid_fraction,
        size=options.size,
        twins=options.twins,
        views_tell=options.views_tell,
        planted_marker=options.planted_marker,
        body_parts=options.body_parts,
        findings=options.findings,
        train_shares=dict(options.train_shares or ()),
        exposure=options.exposure,
        workers=options.workers,
    )
    print(f"Synthetic studies in MURA v1.1's layout: {tree}")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
