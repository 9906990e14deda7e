"""Measures whether anything but the finding reveals the label of phantoms: file size, image size, number of views,
histogram, thumbnail, or the image around the finding.

Topics (10 minutes):
  giveaways  AUROC of each on the held-out studies in data/phantoms that mura-phantom is measured on, after fitting on
             1,500 other studies
"""

import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from harness import DATA, run_benchmark

from mura_hf import load_mura
from mura_hf.common import BUNDLED
from mura_hf.errors import DatasetError
from mura_hf.evaluation import measure_giveaways
from mura_hf.phantoms import phantom_record, write_phantom_mura


def measure_leakage() -> dict[str, dict[str, float]]:
    """Returns for each possible give-away `auroc`, and `low` and `high` of its 95 % interval over patients.

    Raises:
        DatasetError: If data/phantoms is not what mura-phantom was trained on.
    """
    made = json.loads((BUNDLED["mura-phantom"] / "training.json").read_text())["data"]["made_with"]
    tree = DATA / "phantoms"
    if phantom_record(tree) != made:
        raise DatasetError(f"{tree} is not what mura-phantom was trained on; make it with the command on its card")
    with tempfile.TemporaryDirectory() as folder:
        # Other patients, and no twins, which would balance whatever else depends on the label.
        write_phantom_mura(folder, 1501, made["seed"] + 1, valid_fraction=1 / 1501, workers=os.cpu_count() or 1)
        fit, held_out = (load_mura(root, dev_fraction=0.0, calib_fraction=0.0) for root in (folder, tree))
        found = measure_giveaways(fit["train"], held_out["valid"])
    return {name: {key: round(row[key], 3) for key in ("auroc", "low", "high")} for name, row in found.items()}


TOPICS = {"giveaways": (measure_leakage, None)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
