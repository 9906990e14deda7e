"""Trains a model on MURA, or on phantoms in its layout.

Several processes: `accelerate launch scripts/train.py ...`, or on CPUs
`ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py ...`.
"""

import argparse
from dataclasses import replace

from mura_hf.data import load_mura
from mura_hf.errors import MuraError
from mura_hf.phantoms import phantom_record
from mura_hf.training import load_recipe, recipe_names, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help=f"one of {', '.join(recipe_names())}, or a .yaml file")
    parser.add_argument("--data_dir", required=True, help="the folder MURA-v1.1, or the one that holds it")
    parser.add_argument("--output_dir", required=True, help="a new or empty folder")
    parser.add_argument("--body_parts", nargs="+", help="train on some parts only")
    parser.add_argument("--epochs", type=int, help="on whole views, instead of the recipe's")
    parser.add_argument("--patch_epochs", type=int, help="on patches before that, instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read files")
    parser.add_argument("--keep_in_memory", action="store_true", help="read each file once")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()

    overrides = {name: getattr(options, name) for name in ("epochs", "seed") if getattr(options, name) is not None}
    recipe = load_recipe(options.recipe, **overrides)
    if options.patch_epochs is not None:
        recipe = replace(recipe, patches=replace(recipe.patches, epochs=options.patch_epochs))
    datasets = load_mura(
        options.data_dir, options.body_parts, recipe.dev_fraction, recipe.calib_fraction, seed=recipe.seed
    )
    phantoms = phantom_record(options.data_dir)
    description = {"name": "phantoms", "made_with": phantoms} if phantoms else {"name": "MURA v1.1"}
    folder = train(
        datasets,
        recipe,
        options.output_dir,
        data_description={**description, "body_parts": options.body_parts or "all"},
        trained_on_phantoms=phantoms is not None,
        cpu=options.cpu,
        num_workers=options.num_workers,
        keep_in_memory=options.keep_in_memory,
    )
    print(f"Best checkpoint: {folder}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
