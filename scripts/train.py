"""Trains a model on MURA, phantoms, FracAtlas, GRAZPEDWRI-DX, a folder with metadata.csv or a dataset of the Hub.
Then it calibrates the model, measures it on valid and writes its card.

    python scripts/train.py --config mura_paper --data_dir MURA-v1.1 --output_dir runs/mine --learning_rate 5e-5

Several processes: `accelerate launch scripts/train.py ...`, or on CPUs
`ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py ...`.
The same command again continues a run that was interrupted. Each argument of a config is an option.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from transformers.utils import logging

from mura_hf.common import home_folder, read_training, replace_file
from mura_hf.data import SELECTION_OPTIONS, load_data
from mura_hf.errors import CardError, MuraError
from mura_hf.evaluation import (
    describe_calibration,
    describe_estimate,
    describe_evaluation,
    describe_source,
    describe_verdict,
    finalize_checkpoint,
)
from mura_hf.evaluation.calibration import add_to_training_record
from mura_hf.hub import render_card
from mura_hf.training import (
    TrainingConfig,
    config_names,
    estimate,
    find_base,
    keep_split_of_base,
    leave_processes,
    read_command_line,
    train,
)

FOLDERS = [Path(__file__).parent / "reproduction"]
"""Folders with further configs."""


OF_THIS_MACHINE = (
    "data_dir", "output_dir", "num_workers", "cache_dir", "no_cache", "cpu", "save_minutes", "save_steps", "tracker",
    "no_evaluate", "name",
)  # fmt: skip
"""Options that change nothing in the weights, or name a place."""


@dataclass
class ScriptArguments:
    """Arguments of the script."""

    config: str = field(metadata={"help": f"one of {', '.join(config_names())}, a .yaml file, or FILE.yaml:VARIANT"})
    data_dir: str | None = field(
        default=None, metadata={"help": "folder of the data (the kind is detected), or owner/name on the Hub"}
    )
    output_dir: str | None = field(default=None, metadata={"help": "a new folder, or that of a run to continue"})
    show: bool = field(default=False, metadata={"help": "print the whole config as YAML, and end"})
    estimate: bool = field(
        default=False,
        metadata={
            "aliases": ["--dry_run"],
            "help": "train three steps, print data, model, memory and time, and end; nothing is kept",
        },
    )
    patch_epochs: int | None = field(default=None, metadata={"help": "epochs in each stage on patches; 0: no patches"})
    body_parts: list[str] | None = field(default=None, metadata={"help": "use some body parts only"})
    regions: list[str] | None = field(default=None, metadata={"help": "use some regions of FracAtlas only"})
    abnormal: list[str] | None = field(
        default=None, metadata={"help": "what is abnormal in FracAtlas and GRAZPEDWRI-DX: fracture, hardware"}
    )
    num_workers: int = field(default=0, metadata={"help": "processes that read files"})
    cache_dir: str | None = field(
        default=None, metadata={"help": "cache of resized images; default: mura_hf/pixels in the user's cache folder"}
    )
    no_cache: bool = field(default=False, metadata={"help": "read and resize each file in each epoch"})
    cpu: bool = field(default=False, metadata={"help": "use the CPU even if there is a GPU"})
    save_minutes: float = field(default=10.0, metadata={"help": "minutes between two saved states"})
    save_steps: int | None = field(default=None, metadata={"help": "also save the state after this many steps"})
    tracker: str | None = field(default=None, metadata={"help": "tracker of Accelerate, such as tensorboard or wandb"})
    no_evaluate: bool = field(
        default=False, metadata={"help": "end after training, without calibration, figures and card"}
    )
    name: str | None = field(default=None, metadata={"help": "name on the card; default: that of the output folder"})


def run(script: ScriptArguments, config: TrainingConfig, argv: Sequence[str]) -> None:
    """Trains and evaluates."""
    chosen = {name: getattr(script, name) for name in SELECTION_OPTIONS if getattr(script, name)}
    datasets, source = load_data(script.data_dir, **chosen, **config.split_options())
    split = config.split_options()
    config, known, message = keep_split_of_base(config, datasets, script.data_dir, chosen, source=source.key)
    if config.split_options() != split:
        datasets, source = load_data(script.data_dir, **chosen, **config.split_options())
    print_once(message)
    options: dict[str, Any] = {
        "cpu": script.cpu,
        "num_workers": script.num_workers,
        "cache_dir": None if script.no_cache else script.cache_dir or home_folder() / "pixels",
    }
    if script.estimate:
        print(*describe_estimate(estimate(datasets, config, **options)), sep="\n")
        return
    description = describe_source(source, script.data_dir)
    folder = train(
        datasets,
        config,
        script.output_dir,
        data_description={
            **description,
            "body_parts": "all",
            **chosen,
            **({"known_to_base": known} if known else {}),
        },
        trained_on_phantoms=source.key == "phantoms",
        save_minutes=script.save_minutes,
        save_steps=script.save_steps,
        tracker=script.tracker,
        **options,
    )
    if not leave_processes():
        return  # the main process does the rest
    add_to_training_record(folder, {"options": shared_options(argv, read_training(folder).get("base"))})
    print(f"Best checkpoint: {folder}")
    if all((folder / name).is_file() for name in ("evaluation.json", "README.md")):
        print("Its figures and its card exist already.")
        print_next(folder)
    elif script.no_evaluate:
        print("Not calibrated and not evaluated: scripts/calibrate.py, evaluate.py and render_card.py do that.")
    else:
        finish(folder, datasets, description, config, script)


def shared_options(argv: Sequence[str], base: dict[str, Any] | None) -> list[str]:
    """The options that train the checkpoint on any machine. Of local files they have the names only."""
    options: list[str] = []
    option = ""
    for word in (part for one in argv for part in (one.split("=", 1) if one.startswith("--") else [one])):
        if word.startswith("--"):
            option = word.removeprefix("--").replace("-", "_")
        elif option == "init_from" and base:
            word = base["name"] + (f"@{base['revision']}" if base["revision"] else "")
        elif os.path.exists(word.partition(":")[0]):
            word = Path(word).name
        if option not in OF_THIS_MACHINE:
            options.append(word)
    return options


def finish(
    folder: Path, datasets: Any, description: dict[str, Any], config: TrainingConfig, script: ScriptArguments
) -> None:
    """Calibrates, evaluates, writes the card, and says whether the model is better than its start."""
    base = config.model.init_checkpoint if config.model.init_heads else None
    start = None if base is None else find_base(base).folder
    done = finalize_checkpoint(folder, datasets, data=description, start=start, cpu=script.cpu)
    print(*describe_calibration(done.calibration), sep="\n")
    if done.evaluation is not None:
        print(*describe_evaluation(done.evaluation), sep="\n")
        name = script.name or Path(script.output_dir).resolve().name
        try:
            replace_file(folder / "README.md", render_card(folder, name).encode())
            print(f"Card written: {folder / 'README.md'}")
        except CardError as error:  # the checkpoint works without a card
            print(f"No card: {error}")
    print(*done.skipped, sep="\n", end="\n" * bool(done.skipped))
    if done.evaluation is not None:
        print(f"\n{describe_verdict(done.evaluation)}\n")
    print_next(folder)


def print_next(folder: Path) -> None:
    """Prints the commands that come next."""
    place = shlex.quote(str(folder))
    print("Next, try it in the app, read its card, and push it:")
    print(f"  MURA_CHECKPOINT={place} python app.py")
    print(f"  less {place}/README.md")
    print(f"  python scripts/push_to_hub.py {place} USER/NAME --dry_run")


def print_once(*messages: str | None) -> None:
    """Prints messages to stderr, on the main process only."""
    if os.environ.get("RANK", "0") == "0":
        print(*filter(None, messages), sep="\n", end="\n" * any(messages), file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> None:
    logging.disable_progress_bar()  # one bar at a time: that of the epoch or measurement
    try:
        script, config, messages = read_command_line(
            argv, ScriptArguments, folders=FOLDERS, description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        print_once(*messages)
        if script.show:
            print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
        elif script.data_dir is None or (script.output_dir is None and not script.estimate):
            needed = "--data_dir" if script.estimate else "--data_dir and --output_dir"
            print(f"train.py: error: {needed} must be given", file=sys.stderr)
            raise SystemExit(2)
        else:
            run(script, config, sys.argv[1:] if argv is None else argv)
    except (MuraError, OSError, ValueError, SafetensorError) as error:
        stopped_by = getattr(error, "signal_number", None)  # of TrainingStopped: its state is saved
        print(error, file=sys.stderr)
        raise SystemExit(1 if stopped_by is None else 128 + stopped_by) from None


if __name__ == "__main__":
    main()
