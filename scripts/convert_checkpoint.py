"""Turns weights that someone saved with torch, of a network of torchvision or timm, into a checkpoint of mura_hf, and
says what became of each of them.
"""

import argparse
import json
from pathlib import Path

from mura_hf.errors import MuraError
from mura_hf.hub import convert_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="state dict: .pth, .pt or .safetensors")
    parser.add_argument("--architecture", required=True, help="timm's name of the network, such as densenet169")
    head = parser.add_mutually_exclusive_group()
    head.add_argument("--abnormal_index", type=int, choices=(0, 1), help="which of two outputs means abnormal")
    head.add_argument("--single_logit", action="store_true", help="one output, whose sigmoid is P(abnormal)")
    head.add_argument("--new_head", action="store_true", help="leave the head out and start an untrained one")
    parser.add_argument("--image_size", type=int, default=320, help="side of the training pictures in pixels")
    parser.add_argument("--resize_mode", choices=("squash", "letterbox"), default="squash")
    parser.add_argument("--image_mean", type=float, nargs="+", help="one value a channel; ImageNet's by default")
    parser.add_argument("--image_std", type=float, nargs="+", help="likewise")
    parser.add_argument(
        "--leave_out", nargs="+", default=[], help="beginnings of names that are no part of the network"
    )
    parser.add_argument("--report", help="JSON file to write what became of every weight to")
    parser.add_argument("--output_dir", required=True, help="a new or empty folder")
    options = parser.parse_args()
    settings = {name: value for name, value in vars(options).items() if name not in ("file", "output_dir", "report")}
    done = convert_checkpoint(options.file, options.output_dir, **settings)
    print(done.describe())
    if options.report:
        Path(options.report).write_text(json.dumps(done.to_dict(), indent=2) + "\n")
    print(f"Converted: {done.folder}, {len(done.keys) - len(done.left_out)} weights, {len(done.left_out)} left out.")
    print(
        "It has no records: nothing is known about its training, data or figures. It works in StudyPredictor, "
        "pipelines and training (init_from), but it is neither evaluated nor given a card."
        if not options.new_head
        else "Its head is untrained: its answers mean nothing until it is trained (init_from in a recipe)."
    )


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
