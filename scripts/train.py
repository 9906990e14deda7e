"""Trains a model on MURA, phantoms, FracAtlas, GRAZPEDWRI-DX, a folder with metadata.csv or a dataset of the Hub, then
calibrates it, measures it on valid and writes its card.

Several processes: `accelerate launch scripts/train.py ...`, or on CPUs
`ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py ...`.

The same command again goes on where a run stopped.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any


def read_options() -> argparse.Namespace:
    """Reads the command line; nothing heavy is imported for it."""
    package = importlib.util.find_spec("mura_hf")
    folders = [] if package is None else package.submodule_search_locations or []
    names = sorted(file.stem for folder in folders for file in Path(folder, "training", "recipes").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help=f"one of {', '.join(names)}, or a .yaml file")
    parser.add_argument(
        "--data_dir", help="the folder of the data (which they are is seen), or owner/name of a dataset of the Hub"
    )
    parser.add_argument("--output_dir", help="a new or empty folder, or that of a run to go on with")

    recipe = parser.add_argument_group("the recipe")
    recipe.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
        help="any of its values, such as learning_rate=1e-4 augmentation.rotation=10 'model.head_layers=[256]'",
    )  # fmt: skip
    recipe.add_argument("--show", action="store_true", help="print the whole of it as YAML, and end")
    recipe.add_argument(
        "--init_from", metavar="CHECKPOINT",
        help="fine-tune a checkpoint (a folder, a Hub name with @revision where wanted, or mura-phantom), or start "
        "from timm:NAME; model and preprocessing are then its own",
    )  # fmt: skip
    recipe.add_argument("--each_body_part", action="store_true", help="a model for each body part, in one checkpoint")
    recipe.add_argument("--epochs", type=int, help="on whole views, in each stage, instead of the recipe's")
    recipe.add_argument("--patch_epochs", type=int, help="on patches before that, instead of the recipe's")
    recipe.add_argument("--seed", type=int, help="instead of the recipe's")
    recipe.add_argument("--fold", type=int, help="cross-validation: which fold is dev, from 0 on")

    data = parser.add_argument_group("the data")
    data.add_argument("--body_parts", nargs="+", help="train on some parts only")
    data.add_argument("--regions", nargs="+", help="train on some regions of FracAtlas only")
    data.add_argument(
        "--abnormal", nargs="+", help="what is abnormal in FracAtlas and GRAZPEDWRI-DX: fracture, hardware"
    )
    data.add_argument("--num_workers", type=int, default=0, help="processes that read files")
    data.add_argument(
        "--cache_dir", help="of resized pixels; where left out, mura_hf/pixels in the user's cache folder"
    )
    data.add_argument("--no_cache", action="store_true", help="read and resize each file in each epoch")

    run = parser.add_argument_group("the run")
    run.add_argument("--cpu", action="store_true", help="stay on the CPU")
    run.add_argument(
        "--dry_run", action="store_true",
        help="train three steps, print data, model, memory and time, and end; nothing is kept",
    )  # fmt: skip
    run.add_argument("--save_minutes", type=float, help="minutes between two saved states")
    run.add_argument("--save_steps", type=int, help="steps between two saved states, besides")
    run.add_argument("--tracker", help="one of Accelerate's by name, such as tensorboard or wandb")
    run.add_argument("--no_evaluate", action="store_true", help="end after training: no calibration, figures or card")
    run.add_argument("--name", help="of the checkpoint, on its card; where left out, that of the output folder")
    options = parser.parse_args()
    needed = [] if options.show else ["data_dir"] if options.dry_run else ["data_dir", "output_dir"]
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return options


def make_recipe(options: argparse.Namespace) -> Any:
    """The recipe as the command line has it; says on stderr what a checkpoint changed in it."""
    from mura_hf.training import change_recipe, load_recipe, with_epochs

    settings = [f"{name}={getattr(options, name)}" for name in ("seed", "fold") if getattr(options, name) is not None]
    if options.patch_epochs is not None:
        settings.append(f"patches.epochs={options.patch_epochs}")
    recipe, told = change_recipe(
        load_recipe(options.recipe),
        [*options.settings, *settings],
        init_from=options.init_from,
        each_body_part=options.each_body_part,
    )
    if os.environ.get("RANK", "0") == "0":
        print(*told, sep="\n", end="\n" * bool(told), file=sys.stderr)
    return recipe if options.epochs is None else with_epochs(recipe, options.epochs)


def run(options: argparse.Namespace) -> None:
    """Does what the command line says."""
    recipe = make_recipe(options)
    if options.show:
        import yaml

        print(yaml.safe_dump(recipe.to_dict(), sort_keys=False), end="")
        return

    from mura_hf.data import home_folder, load_data
    from mura_hf.evaluation import describe_source
    from mura_hf.training import keep_cut_of_base, leave_processes, train

    chosen = {name: getattr(options, name) for name in ("body_parts", "regions", "abnormal") if getattr(options, name)}
    datasets, source = load_data(options.data_dir, **chosen, **recipe.cut())
    cut = recipe.cut()
    recipe, known, told = keep_cut_of_base(recipe, datasets, options.data_dir, chosen, source=source.key)
    if recipe.cut() != cut:
        datasets, source = load_data(options.data_dir, **chosen, **recipe.cut())
    if told and os.environ.get("RANK", "0") == "0":
        print(told, file=sys.stderr)
    place = {
        "cpu": options.cpu,
        "num_workers": options.num_workers,
        "cache_dir": None if options.no_cache else options.cache_dir or home_folder() / "pixels",
    }
    if options.dry_run:
        print_dry_run(datasets, recipe, place)
        return
    description = describe_source(source, options.data_dir)
    saving = {name: getattr(options, name) for name in ("save_minutes", "save_steps", "tracker")}
    folder = train(
        datasets,
        recipe,
        options.output_dir,
        data_description={
            **description,
            "body_parts": "all",
            **chosen,
            **({"known_to_base": known} if known else {}),
        },
        trained_on_phantoms=source.key == "phantoms",
        **place,
        **{name: value for name, value in saving.items() if value is not None},
    )
    if not leave_processes():
        return  # the main process does the rest
    print(f"Best checkpoint: {folder}")
    if all((folder / name).is_file() for name in ("evaluation.json", "README.md")):
        print("Its figures and its card stand already.")
    elif options.no_evaluate:
        print("Not calibrated and not evaluated: scripts/calibrate.py, evaluate.py and render_card.py do that.")
    else:
        finish(folder, datasets, description, options)


def print_dry_run(datasets: Any, recipe: Any, place: dict[str, Any]) -> None:
    """Prints what a run would take."""
    from mura_hf.evaluation import describe_estimate
    from mura_hf.training import dry_run

    print(*describe_estimate(dry_run(datasets, recipe, **place)), sep="\n")


def finish(folder: Path, datasets: Any, description: dict[str, Any], options: argparse.Namespace) -> None:
    """Calibrates, evaluates and writes the card."""
    from mura_hf.common import replace_file
    from mura_hf.errors import CardError
    from mura_hf.evaluation import describe_calibration, describe_evaluation, finalize_checkpoint
    from mura_hf.hub import render_card

    done = finalize_checkpoint(folder, datasets, data=description, cpu=options.cpu)
    if done.calibration is not None:
        print(*describe_calibration(done.calibration), sep="\n")
    if done.evaluation is not None:
        print(*describe_evaluation(done.evaluation), sep="\n")
        name = options.name or Path(options.output_dir).resolve().name
        try:
            replace_file(folder / "README.md", render_card(folder, name).encode())
            print(f"Card written: {folder / 'README.md'}")
        except CardError as error:  # the checkpoint stands, and works without
            print(f"No card: {error}")
    print(*done.skipped, sep="\n", end="\n" * bool(done.skipped))


if __name__ == "__main__":
    chosen_options = read_options()

    from safetensors import SafetensorError

    from mura_hf.errors import MuraError

    try:
        run(chosen_options)
    except (MuraError, OSError, ValueError, SafetensorError) as error:
        stopped_by = getattr(error, "signal_number", None)  # of TrainingStopped: its state is saved
        print(error, file=sys.stderr)
        raise SystemExit(1 if stopped_by is None else 128 + stopped_by) from None
