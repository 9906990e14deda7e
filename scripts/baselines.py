"""Measures baselines that look at no image: random, constant, and by the number of views."""

import argparse
from collections.abc import Sequence

from mura_hf.data import load_data
from mura_hf.errors import MuraError
from mura_hf.evaluation import measure_baselines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", help="folder of the data; its format is detected")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"])
    parser.add_argument("--body_parts", nargs="+", help="only these body parts")
    options = parser.parse_args(argv)
    chosen = {"body_parts": options.body_parts} if options.body_parts else {}
    try:
        datasets, _ = load_data(options.data_dir, **chosen)
        measured = measure_baselines(datasets["train"], datasets[options.split])
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
    for name, row in measured.items():
        words = []
        for figure in ("accuracy", "sensitivity", "specificity", "kappa", "auroc"):
            value, interval = row["figures"][figure], row["intervals"].get(figure)
            low_high = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
            words.append(f"{figure} not defined" if value is None else f"{figure} {value:.3f}{low_high}")
        print(f"{name}, {row['figures']['n']} studies: {', '.join(words)}")


if __name__ == "__main__":
    main()
