"""Builds the index of similar studies of a checkpoint and saves it in its retrieval/ folder.

Run scripts/evaluate.py afterwards.
"""

import argparse
from collections.abc import Sequence

from mura_hf.errors import MuraError
from mura_hf.evaluation import describe_index, index_checkpoint


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--data_dir", required=True, help="dataset that it was trained on")
    parser.add_argument("--split", default="train", choices=["train", "dev", "calib", "valid"])
    parser.add_argument("--metric", default="l2", choices=["l2", "cosine"])
    parser.add_argument("--half", action="store_true", help="store codes in float16, which takes half the space")
    parser.add_argument("--faiss", metavar="FACTORY", help="approximate search for millions, such as IVF1024,SQ8")
    parser.add_argument("--faiss_parameters", default="", help="FAISS search parameters, such as nprobe=8")
    parser.add_argument(
        "--thumbnails",
        type=int,
        nargs="?",
        const=96,
        metavar="PIXELS",
        help="store thumbnails with this longer side (96), which the app shows with credit; only for phantoms, "
        "FracAtlas and GRAZPEDWRI-DX",
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--cpu", action="store_true", help="run on the CPU")
    options = parser.parse_args(argv)
    index = index_checkpoint(
        options.checkpoint,
        options.data_dir,
        options.split,
        metric=options.metric,
        half=options.half,
        factory=options.faiss,
        parameters=options.faiss_parameters,
        thumbnail_side=options.thumbnails,
        batch_size=options.batch_size,
        cpu=options.cpu,
    )
    print(*describe_index(index), "Run scripts/evaluate.py now.", sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
