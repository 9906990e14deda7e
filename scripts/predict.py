"""Classifies many studies and writes a worklist, most likely abnormal first.

SOURCE is a folder in which each subfolder with images is a study, a ZIP file of such folders, or a CSV file
(MURA's list of paths; or a header with path, study_id and optionally patient_id and body_part). A metadata.csv in a
folder or ZIP file says which of its files are a study.

Several processes: `torchrun --nproc_per_node 2 scripts/predict.py ...`.

If a run was killed, the same command continues it.
"""

import argparse
import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed

from mura_hf import StudyPredictor
from mura_hf.errors import MuraError
from mura_hf.inference import find_studies, make_worklist

_LONGEST_WAIT = timedelta(days=7)  # for the slowest process


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--output", required=True, help="a new .csv or .json file")
    parser.add_argument(
        "--checkpoint", help="name of a bundled checkpoint, Hub name or folder (default: MURA_CHECKPOINT or mura-film)"
    )
    parser.add_argument("--revision", help="revision on the Hub")
    parser.add_argument("--operating_point", help="name of a threshold of the checkpoint (default: its default one)")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU")
    options = parser.parse_args(argv)

    studies = find_studies(options.source)
    device = "cpu" if options.cpu else None
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
        if device is None and torch.cuda.is_available():
            device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        predictor = StudyPredictor.from_pretrained(options.checkpoint, options.revision, device=device)
        rows = make_worklist(predictor, studies, options.output, operating_point=options.operating_point)
        if not several or distributed.get_rank() == 0:
            failed = sum(row.error is not None for row in rows)
            outside = sum(row.in_distribution is False for row in rows)
            parts = [f"{len(rows)} studies"]
            parts += [f"{outside} out of distribution"] if outside else []
            parts += [f"{failed} without a prediction"] if failed else []
            print(f"{options.output}: {', '.join(parts)}")
    finally:
        if several:
            distributed.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
