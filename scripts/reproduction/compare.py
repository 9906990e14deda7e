"""Trains recipes with several seeds on the same data, and compares them in pairs on `valid`."""

import argparse

from comparisons import compare_recipes, plot_comparison, take_studies, write_comparison_table

from mura_hf.data import home_folder, load_data
from mura_hf.errors import MuraError
from mura_hf.evaluation import describe_source
from mura_hf.training import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pairs", nargs="+", required=True, help="FIRST:SECOND, recipes; the first is measured against the second"
    )
    parser.add_argument("--data_dir", required=True, help="the folder of the data; which they are is seen")
    parser.add_argument("--output_dir", required=True, help="runs that stand finished there are not trained again")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the training")
    parser.add_argument("--n_studies", type=int, help="train on about so many studies only, of patients drawn")
    parser.add_argument("--alone", nargs="+", default=[], help="kinds of findings to compare apart")
    parser.add_argument("--epochs", type=int, help="instead of the recipes', where they have no stages")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()

    pairs = []
    for pair in options.pairs:
        first, separator, second = pair.partition(":")
        if not separator or not first or not second:
            parser.error(f"{pair!r} is no pair; write FIRST:SECOND")
        pairs.append((first, second))
    datasets, source = load_data(options.data_dir, **load_recipe(pairs[0][1]).cut())
    if options.n_studies:
        datasets["train"] = take_studies(datasets["train"], options.n_studies)
    report = compare_recipes(
        datasets,
        pairs,
        options.output_dir,
        seeds=options.seeds,
        data_description={**describe_source(source, options.data_dir), "body_parts": "all"},
        trained_on_phantoms=source.key == "phantoms",
        cpu=options.cpu,
        cache_dir=home_folder() / "pixels",
        alone=options.alone,
        **({} if options.epochs is None else {"epochs": options.epochs}),
    )
    for name, found in report["recipes"].items():
        print(
            f"{name}: AUROC {found['all']['auroc']:.3f}, {sum(found['seconds']) / len(found['seconds']):.0f} s a run"
        )
    for pair, groups in report["pairs"].items():
        for group, figures in groups.items():
            row = figures["auroc"]
            print(f"{pair}, {group}: {row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})")
    written = (write(report, options.output_dir) for write in (plot_comparison, write_comparison_table))
    print(f"Written: {', '.join(map(str, written))}")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
