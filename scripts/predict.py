"""Reads many studies and writes a worklist, most likely abnormal first.

SOURCE is a folder in which each folder that holds pictures is a study, a ZIP file of such folders, or a CSV file
(MURA's list of paths; or a header with path, study_id and perhaps body_part).

Several processes: `torchrun --nproc_per_node 2 scripts/predict.py ...`.

The same command again goes on where a run stopped.
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--output", required=True, help="a new .csv or .json file")
    parser.add_argument(
        "--checkpoint", help="one of the package's own, a Hub name or a folder; MURA_CHECKPOINT or the default else"
    )
    parser.add_argument("--revision", help="of a Hub name")
    parser.add_argument("--operating_point", help="name of a threshold of the checkpoint; its default where left out")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()

    from accelerate import PartialState

    from mura_hf import StudyPredictor
    from mura_hf.inference import find_studies
    from mura_hf.inference.worklist import make_worklist

    studies = find_studies(options.source)
    state = PartialState(cpu=options.cpu)
    predictor = StudyPredictor.from_pretrained(options.checkpoint, options.revision, device=state.device)
    rows = make_worklist(predictor, studies, options.output, operating_point=options.operating_point)
    if state.is_main_process:
        failed = sum(row.error is not None for row in rows)
        strange = sum(row.in_distribution is False for row in rows)
        told = [f"{len(rows)} studies"]
        told += [f"{strange} unlike those of training"] * bool(strange) + [f"{failed} without an answer"] * bool(
            failed
        )
        print(f"{options.output}: {', '.join(told)}")
    state.destroy_process_group()


if __name__ == "__main__":
    from mura_hf.errors import MuraError

    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
