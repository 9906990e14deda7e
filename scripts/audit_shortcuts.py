"""Audits a checkpoint for shortcuts: phantoms with and without a marker, blades, plaster, a ring or metal, and films
whose corners and markers are painted over. Writes shortcuts.json and, to look at, worst.png, which shows patients and
so is not to be passed on.
"""

import argparse
import json
from pathlib import Path

from mura_hf import StudyPredictor
from mura_hf.common import BUNDLED
from mura_hf.errors import MuraError
from mura_hf.evaluation import audit_shortcuts, describe_shortcuts, draw_worst, load_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint, or the name of one of the package's own")
    parser.add_argument("--output_dir", required=True, help="folder for shortcuts.json and worst.png")
    parser.add_argument("--twins", type=int, default=0, help="phantom patients to render with and without a thing")
    parser.add_argument("--data_dir", help="films whose corners and markers are painted over")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"], help="of the films")
    parser.add_argument("--n_studies", type=int, default=200, help="of the films, at most, for each thing")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()
    if not options.twins and not options.data_dir:
        parser.error("nothing to audit with; give --twins, or --data_dir, or both")
    folder = BUNDLED.get(options.checkpoint, Path(options.checkpoint))
    rows = load_split(folder, options.data_dir, options.split)[0] if options.data_dir else None
    predictor = StudyPredictor.from_pretrained(folder, device="cpu" if options.cpu else None)
    audit = audit_shortcuts(predictor, rows, twins=options.twins, n_studies=options.n_studies)
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "shortcuts.json").write_text(json.dumps(audit.record, indent=2) + "\n")
    draw_worst(audit.worst, output / "worst.png")
    print(*describe_shortcuts(audit.record), sep="\n")
    print(f"Written to {output}; worst.png shows patients, so it stays on this machine.")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
