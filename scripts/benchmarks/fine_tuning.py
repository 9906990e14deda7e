"""What fine-tuning on a small set is worth, where the truth is known."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import AutoModelForImageClassification

from mura_hf.data import ViewDataset, load_data
from mura_hf.evaluation.finalize import finish_checkpoint
from mura_hf.evaluation.splits import describe_source
from mura_hf.metrics import calibrate_studies, classification_metrics, paired_bootstrap
from mura_hf.models import MuraImageProcessor
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import change_recipe, load_recipe, predict_views, train
from mura_hf.training.starting import PHANTOM, find_base

FINDING = "sclerotic_lesion"
EXPOSURE = "underexposed"
_FIGURES = ("auroc", "kappa", "brier")


def measure_fine_tuning(
    folder: str | Path,
    *,
    n_train: int = 200,
    n_valid: int = 300,
    body_part: str = "wrist",
    seed: int = 60,
    size: int = 512,
    settings: tuple[str, ...] = (),
    workers: int = 1,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Fine-tunes the bundled checkpoint on phantoms of one part, with a finding and an exposure that it never saw, and
    compares both on others of that kind.

    Args:
        folder: New or empty; gets `data`, and `run` with the checkpoint.
        n_train: Studies, those for `dev` and `calib` included.
        n_valid: Held-out studies.
        body_part: Of all of them.
        seed: Of the phantoms; another one than that of the bundled checkpoint's.
        size: Pixels on the long side of the phantoms.
        settings: Changes of the recipe `fine_tune`, as `change_recipe` takes them.
        workers: Processes that render.
        cache_dir: As in `train`.

    Returns:
        `studies` of train (dev and calib with it) and valid; `seconds` of training, calibration and evaluation, of
        making the phantoms apart; `auroc`, `kappa` and `brier`, each with the value `before` and `after`, and
        `difference`, `low`, `high`, `p_value` of `paired_bootstrap` over patients.
    """
    folder = Path(folder)
    started = time.monotonic()
    tree = write_phantom_mura(
        folder / "data", n_train + n_valid, seed, valid_fraction=n_valid / (n_train + n_valid), size=size,
        body_parts=[body_part], findings=[FINDING], exposure=EXPOSURE, workers=workers,
    )  # fmt: skip
    rendered = time.monotonic()
    recipe, _ = change_recipe(load_recipe("fine_tune"), settings, init_from=PHANTOM)
    datasets, source = load_data(tree, **recipe.cut())
    description = describe_source(source, tree)
    AcceleratorState._reset_state(reset_partial_state=True)
    checkpoint = train(
        datasets, recipe, folder / "run", data_description={**description, "body_parts": "all"},
        trained_on_phantoms=True, cpu=True, cache_dir=cache_dir,
    )  # fmt: skip
    finish_checkpoint(checkpoint, datasets, data=description, cpu=True)
    finished = time.monotonic()

    valid = datasets["valid"]
    after, labels, patients = _answers(checkpoint, valid)
    before, _, _ = _answers(find_base(PHANTOM).folder, valid)
    compared = paired_bootstrap(labels, after, before, patients)
    was, became = classification_metrics(labels, before), classification_metrics(labels, after)
    record = json.loads((checkpoint / "training.json").read_text())
    return {
        "studies": {"train": sum(record["data"]["studies"][one] for one in ("train", "dev", "calib")),
                    "valid": len(labels)},
        "seconds": round(finished - rendered, 1),
        "seconds_phantoms": round(rendered - started, 1),
        "base": record["base"]["name"],
        **{name: {"before": was[name], "after": became[name], **compared.get(name, {})} for name in _FIGURES},
    }  # fmt: skip


def _answers(folder: Path, rows: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated probabilities, labels and patients of the studies, `[n]` each."""
    accelerator = Accelerator(cpu=True)
    model = AutoModelForImageClassification.from_pretrained(folder)
    views = ViewDataset(rows, MuraImageProcessor.from_pretrained(folder))
    found = predict_views(accelerator.prepare_model(model, evaluation_mode=True), views, accelerator, progress="valid")
    means, labels, patients, _ = (np.asarray(column) for column in zip(*found.by_study().values(), strict=True))
    return calibrate_studies(means, model.config.study_slope, model.config.study_intercept), labels, patients
