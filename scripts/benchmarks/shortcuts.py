"""Measures whether the shortcut audit catches a model that learned a shortcut, and clears one that did not.

Topics (15 minutes):
  shortcuts  a small model is trained on phantoms on which a side marker reveals the label; it and mura-phantom are
             audited, with 95 % intervals. The marker of the first must be found, that of the second excluded.
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from harness import CONFIGS, ROOT, run_benchmark

from mura_hf import StudyPredictor
from mura_hf.common import BUNDLED
from mura_hf.data import load_data
from mura_hf.evaluation import describe_source
from mura_hf.evaluation.shortcuts import FOUND, NONE
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import load_config, train

sys.path.append(str(ROOT / "scripts"))
from audit_shortcuts import audit_shortcuts

CHANGES = {"image_size": 128, "batch_size": 16, "learning_rate": 1e-3, "epochs": 4, "body_part_head": False}


def measure_shortcuts(
    n_studies: int = 500,
    size: int = 256,
    counterfactuals: int = 210,
    honest_size: int = 512,
    changes: Mapping[str, Any] = CHANGES,
    seed: int = 61,
) -> dict[str, Any]:
    """Trains the config `p_base`, for smaller images, on phantoms with a planted marker, and audits it and
    mura-phantom.

    `p_base` starts from the backbone of mura-phantom, so that the two models differ in the shortcut rather than in
    what they can recognise.

    Args:
        n_studies: Studies of the planted data, including the held-out ones.
        size: Longer side in pixels of these phantoms, and of those that the trained model is audited with.
        counterfactuals: Phantom patients of each audit.
        honest_size: Longer side in pixels of the phantoms that mura-phantom is audited with.
        changes: Changes of the config.
        seed: Of the phantoms; not that of mura-phantom's.

    Returns:
        `planted` and `mura-phantom`: the record of `audit_shortcuts`; that of `planted` has `masking` too, on its
        held-out images. `passed`: whether the planted marker is found in both ways, and that of mura-phantom excluded.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = write_phantom_mura(
            folder / "data", n_studies, seed, size=size, planted_marker=True, workers=os.cpu_count() or 1
        )
        config = load_config("p_base", [CONFIGS], **changes)
        datasets, source = load_data(tree, **config.split_options())
        AcceleratorState._reset_state(reset_partial_state=True)
        checkpoint = train(
            datasets, config, folder / "run",
            data_description={**describe_source(source, tree), "body_parts": "all"}, trained_on_phantoms=True,
            cpu=True, cache_dir=folder / "pixels",
        )  # fmt: skip
        predictor = StudyPredictor.from_pretrained(checkpoint, device="cpu")
        planted, _ = audit_shortcuts(predictor, datasets["valid"], counterfactuals=counterfactuals, size=size)
    bundled = StudyPredictor.from_pretrained(BUNDLED["mura-phantom"], device="cpu")
    honest, _ = audit_shortcuts(bundled, counterfactuals=counterfactuals, size=honest_size)
    verdicts = [planted["counterfactuals"]["marker"]["verdict"], planted["masking"]["markers"]["verdict"]]
    passed = verdicts == [FOUND, FOUND] and honest["counterfactuals"]["marker"]["verdict"] == NONE
    return {"planted": planted, "mura-phantom": honest, "passed": passed}


TOPICS = {
    "shortcuts": (
        measure_shortcuts,
        {
            "n_studies": 60, "size": 96, "counterfactuals": 7, "honest_size": 96,
            "changes": {"image_size": 64, "batch_size": 16, "epochs": 1, "body_part_head": False},
        },
    )
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
