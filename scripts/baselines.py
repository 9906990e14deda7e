"""Measures classifiers that look at no picture: random, constant, and by the number of views."""

import argparse

from mura_hf.data import load_data
from mura_hf.errors import MuraError
from mura_hf.evaluation import measure_baselines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", help="the folder of the data; which they are is seen")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"])
    parser.add_argument("--body_parts", nargs="+", help="some parts only")
    options = parser.parse_args()
    chosen = {"body_parts": options.body_parts} if options.body_parts else {}
    datasets, _ = load_data(options.data_dir, **chosen)
    for name, found in measure_baselines(datasets["train"], datasets[options.split]).items():
        told = []
        for figure in ("accuracy", "sensitivity", "specificity", "kappa", "auroc"):
            value, interval = found["figures"][figure], found["intervals"].get(figure)
            low_high = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
            told.append(f"{figure} not defined" if value is None else f"{figure} {value:.3f}{low_high}")
        print(f"{name}, {found['figures']['n']} studies: {', '.join(told)}")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
