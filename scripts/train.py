"""Trains a model on MURA, phantoms, FracAtlas, GRAZPEDWRI-DX, or a folder with metadata.csv.

Several processes: `accelerate launch scripts/train.py ...`, or on CPUs
`ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py ...`.
"""

import argparse
from dataclasses import replace

from mura_hf.assessment import describe_source
from mura_hf.data import home_folder, load_data
from mura_hf.errors import MuraError
from mura_hf.training import load_recipe, recipe_names, train, with_epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help=f"one of {', '.join(recipe_names())}, or a .yaml file")
    parser.add_argument("--data_dir", required=True, help="the folder of the data; which they are is seen")
    parser.add_argument("--output_dir", required=True, help="a new or empty folder")
    parser.add_argument("--body_parts", nargs="+", help="train on some parts only")
    parser.add_argument("--regions", nargs="+", help="train on some regions of FracAtlas only")
    parser.add_argument(
        "--abnormal", nargs="+", help="what is abnormal in FracAtlas and GRAZPEDWRI-DX: fracture, hardware"
    )
    parser.add_argument("--epochs", type=int, help="on whole views, in each stage, instead of the recipe's")
    parser.add_argument("--patch_epochs", type=int, help="on patches before that, instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--fold", type=int, help="cross-validation: which fold is dev, from 0 on")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read files")
    parser.add_argument(
        "--cache_dir", help="of resized pixels; where left out, mura_hf/pixels in the user's cache folder"
    )
    parser.add_argument("--no_cache", action="store_true", help="read and resize each file in each epoch")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()

    overrides = {name: getattr(options, name) for name in ("seed", "fold") if getattr(options, name) is not None}
    recipe = load_recipe(options.recipe, **overrides)
    if options.epochs is not None:
        recipe = with_epochs(recipe, options.epochs)
    if options.patch_epochs is not None:
        recipe = replace(recipe, patches=replace(recipe.patches, epochs=options.patch_epochs))
    chosen = {name: getattr(options, name) for name in ("body_parts", "regions", "abnormal") if getattr(options, name)}
    datasets, source = load_data(options.data_dir, **chosen, **recipe.cut())
    folder = train(
        datasets,
        recipe,
        options.output_dir,
        data_description={**describe_source(source, options.data_dir), "body_parts": "all", **chosen},
        trained_on_phantoms=source.key == "phantoms",
        cpu=options.cpu,
        num_workers=options.num_workers,
        cache_dir=None if options.no_cache else options.cache_dir or home_folder() / "pixels",
    )
    print(f"Best checkpoint: {folder}")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
