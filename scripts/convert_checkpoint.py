"""Converts saved weights of a torchvision or timm network into a checkpoint of mura_hf."""

import argparse
from collections.abc import Sequence

from mura_hf.errors import MuraError
from mura_hf.hub import convert_checkpoint


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="state dict: .pth, .pt or .safetensors")
    parser.add_argument("--architecture", required=True, help="timm's name of the architecture, such as densenet169")
    head = parser.add_mutually_exclusive_group()
    head.add_argument("--abnormal_index", type=int, choices=(0, 1), help="which of the two outputs means abnormal")
    head.add_argument(
        "--single_logit", action="store_true", help="the head has one output, whose sigmoid is P(abnormal)"
    )
    head.add_argument("--new_head", action="store_true", help="replace the head by an untrained one")
    parser.add_argument("--image_size", type=int, default=320, help="side of the square input in training, in pixels")
    parser.add_argument("--resize_mode", choices=("squash", "letterbox"), default="squash")
    parser.add_argument("--image_mean", type=float, nargs="+", help="one value per channel (default: ImageNet's)")
    parser.add_argument("--image_std", type=float, nargs="+", help="likewise")
    parser.add_argument(
        "--leave_out", nargs="+", default=[], help="prefixes of weights that do not belong to the network"
    )
    parser.add_argument("--output_dir", required=True, help="a new or empty folder")
    options = parser.parse_args(argv)
    settings = {name: value for name, value in vars(options).items() if name not in ("file", "output_dir")}
    done = convert_checkpoint(options.file, options.output_dir, **settings)
    print(f"Converted: {done.folder}. Left out: {', '.join(done.left_out) or 'nothing'}.")
    if options.new_head:
        print("Its head is untrained: fine-tune it (--init_from) before you use its predictions.")
    else:
        print(
            "It has no records of its training, data or figures. It works in StudyPredictor, in pipelines and for "
            "fine-tuning (--init_from), but it cannot be evaluated or given a card."
        )


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
