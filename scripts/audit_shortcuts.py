"""Audits a checkpoint for shortcuts: phantoms with and without a marker, collimator, cast, ring or metal, and
radiographs whose corners and markers are painted over. Writes shortcuts.json, and worst.png to look at. It shows
patients, so do not share it.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mura_hf import StudyPredictor
from mura_hf.common import BUNDLED
from mura_hf.errors import MuraError
from mura_hf.evaluation import audit_shortcuts, describe_shortcuts, draw_largest_shifts, load_split


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint, or the name of a bundled one")
    parser.add_argument("--output_dir", required=True, help="folder for shortcuts.json and worst.png")
    parser.add_argument(
        "--counterfactuals", "--twins", type=int, default=0, metavar="N",
        help="phantom patients to render with and without each factor",
    )  # fmt: skip
    parser.add_argument("--data_dir", help="radiographs whose corners and markers are painted over")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"], help="split of the radiographs")
    parser.add_argument("--n_studies", type=int, default=200, help="largest number of studies for each factor")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args(argv)
    if not options.counterfactuals and not options.data_dir:
        parser.error("nothing to audit with; give --counterfactuals, or --data_dir, or both")
    folder = BUNDLED.get(options.checkpoint, Path(options.checkpoint))
    output = Path(options.output_dir)
    try:
        rows = load_split(folder, options.data_dir, options.split)[0] if options.data_dir else None
        predictor = StudyPredictor.from_pretrained(folder, device="cpu" if options.cpu else None)
        audit = audit_shortcuts(predictor, rows, counterfactuals=options.counterfactuals, n_studies=options.n_studies)
        output.mkdir(parents=True, exist_ok=True)
        (output / "shortcuts.json").write_text(json.dumps(audit.record, indent=2) + "\n")
        draw_largest_shifts(audit.largest, output / "worst.png")
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(*describe_shortcuts(audit.record), sep="\n")
    print(f"Written to {output}. worst.png shows patients, so do not share it.")


if __name__ == "__main__":
    main()
