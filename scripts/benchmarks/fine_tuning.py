"""Measures what fine-tuning on a small data set gains, on phantoms.

Topics (6 minutes):
  fine_tune  mura-phantom is fine-tuned on 200 wrist studies with a finding and an exposure that it was not trained on,
             and compared with itself before, on 300 other studies of that kind
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset
from harness import run_benchmark
from transformers import AutoModelForImageClassification

from mura_hf.data import ViewDataset, load_data
from mura_hf.evaluation import describe_source, finalize_checkpoint
from mura_hf.metrics import calibrate_studies, classification_metrics, paired_comparison
from mura_hf.models import MuraImageProcessor
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import load_config, predict_views, train
from mura_hf.training.fine_tuning import changes_for
from mura_hf.training.initialization import find_base

FINDING, EXPOSURE, BODY_PART = "sclerotic_lesion", "underexposed", "wrist"


def measure_fine_tuning(
    n_train: int = 200, n_valid: int = 300, size: int = 512, changes: Mapping[str, Any] | None = None, seed: int = 60
) -> dict[str, Any]:
    """Fine-tunes the bundled checkpoint with the config `fine_tune` and compares it with itself before.

    Args:
        n_train: Number of studies, including those for `dev` and `calib`.
        n_valid: Number of held-out studies.
        size: Longer side of the phantoms in pixels.
        changes: Changes of the config.
        seed: Of the phantoms; not that of mura-phantom's.

    Returns:
        `studies` of train (with dev and calib) and valid; `seconds` of training, calibration and evaluation;
        `seconds_phantoms` of rendering; `base`; and `auroc`, `kappa` and `brier`, each with its value `before` and
        `after`, and `difference`, `low`, `high`, `p_value` of `paired_comparison` over patients.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.monotonic()
        tree = write_phantom_mura(
            folder / "data", n_train + n_valid, seed, valid_fraction=n_valid / (n_train + n_valid), size=size,
            body_parts=[BODY_PART], findings=[FINDING], exposure=EXPOSURE, workers=os.cpu_count() or 1,
        )  # fmt: skip
        rendered = time.monotonic()
        config = load_config("fine_tune")
        found, _ = changes_for(config, "mura-phantom")
        config = config.replace(**{**found, **(changes or {})})
        datasets, source = load_data(tree, **config.split_options())
        description = describe_source(source, tree)
        AcceleratorState._reset_state(reset_partial_state=True)
        checkpoint = train(
            datasets, config, folder / "run", data_description={**description, "body_parts": "all"},
            trained_on_phantoms=True, cpu=True, cache_dir=folder / "pixels",
        )  # fmt: skip
        finalize_checkpoint(checkpoint, datasets, data=description, cpu=True)
        finished = time.monotonic()

        after, labels, patients = _predict(checkpoint, datasets["valid"])
        before, _, _ = _predict(find_base("mura-phantom").folder, datasets["valid"])
        training = json.loads((checkpoint / "training.json").read_text())
    compared = paired_comparison(labels, after, before, patients)
    was, became = classification_metrics(labels, before), classification_metrics(labels, after)
    return {
        "studies": {"train": sum(training["data"]["studies"][one] for one in ("train", "dev", "calib")),
                    "valid": len(labels)},
        "seconds": round(finished - rendered, 1),
        "seconds_phantoms": round(rendered - started, 1),
        "base": training["base"]["name"],
        **{figure: {"before": was[figure], "after": became[figure], **compared.get(figure, {})}
           for figure in ("auroc", "kappa", "brier")},
    }  # fmt: skip


def _predict(folder: Path, rows: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated probabilities, labels and patients of the studies, `[n]` each."""
    accelerator = Accelerator(cpu=True)
    model = AutoModelForImageClassification.from_pretrained(folder)
    views = ViewDataset(rows, MuraImageProcessor.from_pretrained(folder))
    found = predict_views(accelerator.prepare_model(model, evaluation_mode=True), views, accelerator, progress="valid")
    means, labels, patients, _ = (np.asarray(column) for column in zip(*found.by_study().values(), strict=True))
    return calibrate_studies(means, model.config.study_slope, model.config.study_intercept), labels, patients


TOPICS = {
    "fine_tune": (
        measure_fine_tuning,
        {
            "n_train": 40, "n_valid": 20, "size": 128,
            "changes": {"epochs": 1, "image_size": 96, "dev_fraction": 0.3, "calib_fraction": 0.2},
        },
    )
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
