"""Builds the index of studies that a checkpoint is searched with, from what it was trained on, and saves it in the
checkpoint's retrieval/. A build that was killed goes on where it was. Run scripts/evaluate.py afterwards.
"""

import argparse

from mura_hf.errors import MuraError
from mura_hf.evaluation import describe_index, index_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--data_dir", required=True, help="what it was trained on")
    parser.add_argument("--split", default="train", choices=["train", "dev", "calib", "valid"])
    parser.add_argument("--metric", default="l2", choices=["l2", "cosine"])
    parser.add_argument("--half", action="store_true", help="keep codes in float16, at half the space")
    parser.add_argument("--faiss", metavar="FACTORY", help="approximate search, for millions, such as IVF1024,SQ8")
    parser.add_argument("--faiss_parameters", default="", help="at search time, such as nprobe=8")
    parser.add_argument("--thumbnails", type=int, metavar="PIXELS", help="keep small pictures, so long at most")
    parser.add_argument("--max_views", type=int, help="draw studies until there are so many views")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()
    index = index_checkpoint(
        options.checkpoint,
        options.data_dir,
        options.split,
        metric=options.metric,
        half=options.half,
        factory=options.faiss,
        parameters=options.faiss_parameters,
        thumbnail_side=options.thumbnails,
        max_views=options.max_views,
        batch_size=options.batch_size,
        cpu=options.cpu,
    )
    print(*describe_index(index), "Run scripts/evaluate.py now.", sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
