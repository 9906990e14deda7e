"""The head that predicts which region of the body a view shows: fitted to a trained network, and measured."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file, save
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForImageClassification

from ..common import replace_file
from ..data import ViewDataset
from ..errors import CheckpointError, DatasetError
from ..metrics import mean_with_interval
from ..models import MuraForImageClassification, MuraImageProcessor
from ..models.golden_mura import digest_weights
from ..retrieval import OOD_FILE, OODDetector
from ..training import SplitPredictions
from .calibration import add_to_training_record
from .ood_detection import read_codes
from .splits import spread_indices

MAX_VIEWS = 1_500
"""More views of train would hardly change a linear head."""

MIN_VIEWS = 5
"""Regions with fewer of these views are left out."""

_PENALTY = 3e-3  # .001 and .01 are equally good in five folds over films of FracAtlas, .0001 and .1 worse
_WEIGHTS, _HEAD = "model.safetensors", "region_classifier"


def fit_region_head(folder: str | Path, train: Dataset, *, batch_size: int = 32, cpu: bool = False) -> dict[str, Any]:
    """Fits a linear head for the region of the body to the codes of a trained network, and adds it to the checkpoint.

    The head is a multinomial logistic regression with an L2 penalty. All other weights stay as they are, so
    probabilities and heatmaps do not change, and neither does an out-of-distribution detector or an index of studies.
    An earlier head is replaced. A record is added to `training.json` if that exists. The digest of the weights
    changes, so earlier evaluations are outdated; run `evaluate_checkpoint` again.

    Args:
        folder: The checkpoint, a network with one backbone.
        train: The data that it was trained on, with a column `region`. Views of several regions, joined by "+", and of
            unknown ones do not count.
        batch_size, cpu: See `evaluate_checkpoint`.

    Returns:
        `n` views of each of the `regions`, by name, and the `accuracy` on these views, which is optimistic.

    Raises:
        CheckpointError: If the model has several backbones, or its weights are in several files.
        DatasetError: If fewer than two regions have `MIN_VIEWS` of the views.
    """
    folder, accelerator = Path(folder), Accelerator(cpu=cpu)
    rows, names = _choose_views(train)
    model: Any = AutoModelForImageClassification.from_pretrained(folder)
    if not isinstance(model, MuraForImageClassification) or not (folder / _WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} is no network with one backbone and one {_WEIGHTS}; fit the head to each member of an ensemble "
            "before you combine them"
        )
    model = accelerator.prepare_model(model, evaluation_mode=True)
    views = ViewDataset(rows, MuraImageProcessor.from_pretrained(folder))
    codes = read_codes(model.eval(), views, batch_size, attrgetter("pooler_output"), "Reading regions").double()
    targets = torch.tensor([names.index(name) for name in rows["region"]])
    weight, bias = _fit(codes, targets, len(names))
    right = (codes @ weight.T + bias).argmax(1) == targets
    record = {
        "regions": {name: int((targets == number).sum()) for number, name in enumerate(names)},
        "accuracy": float(right.double().mean()),
    }
    if accelerator.is_main_process:
        _write(folder, names, weight.float(), bias.float())
        add_to_training_record(folder, {"region_head": record})
    return record


def _choose_views(train: Dataset) -> tuple[Dataset, list[str]]:
    """At most `MAX_VIEWS` views that show a single region, and the regions that `MIN_VIEWS` of these show.

    Raises:
        DatasetError: If these are fewer than two regions.
    """
    names = single_regions(train)
    rows = train.select([row for row, name in enumerate(train["region"]) if name in names] if names else [])
    rows = rows.select(spread_indices(len(rows), MAX_VIEWS))
    names = single_regions(rows)  # a rare region may have fewer views now
    if len(names) < 2:
        raise DatasetError(
            f"train must have at least {MIN_VIEWS} views of each of two regions among {MAX_VIEWS}, but has these of "
            f"{' and '.join(names) or 'none'}; use data with a column region, such as FracAtlas"
        )
    return rows.select([row for row, name in enumerate(rows["region"]) if name in names]), names


def single_regions(rows: Dataset | None) -> list[str]:
    """Returns the regions that `MIN_VIEWS` views show alone, sorted by name; empty if the rows have no regions."""
    counts = Counter(rows["region"] if rows is not None and "region" in rows.column_names else ())
    single = (name for name in counts if name and name != "unknown" and "+" not in name)
    return sorted(name for name in single if counts[name] >= MIN_VIEWS)


def _fit(codes: torch.Tensor, targets: torch.Tensor, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `[K, D]` and bias `[K]` of the logistic regression; the penalty is on standardized codes."""
    mean, deviation = codes.mean(0), codes.std(0)
    deviation += 0.01 * deviation.mean()  # else a channel that hardly varies in train could decide later
    rows = 1 if n_classes == 2 else 2  # of two classes, scikit-learn fits the difference of the rows
    model = LogisticRegression(C=1 / (rows * _PENALTY * len(codes)), tol=1e-8, max_iter=5_000)
    model.fit(((codes - mean) / deviation).numpy(), targets.numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if n_classes == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    scaled = weight / deviation
    return scaled, bias - scaled @ mean


def _write(folder: Path, names: list[str], weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Writes the head into the files of a checkpoint, and binds its out-of-distribution detector to them."""
    before = digest_weights(folder)
    weights = {**load_file(folder / _WEIGHTS), f"{_HEAD}.weight": weight.contiguous(), f"{_HEAD}.bias": bias}
    config = {**json.loads((folder / "config.json").read_text(encoding="utf-8")), "regions": names}
    replace_file(folder / _WEIGHTS, save(weights, {"format": "pt"}))
    replace_file(folder / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    if (folder / OOD_FILE).is_file():
        detector = OODDetector.load(folder / OOD_FILE, before)
        replace(detector, weights=digest_weights(folder)).save(folder)


def measure_region_head(
    names: Sequence[str] | None, parts: Sequence[tuple[Dataset, SplitPredictions]]
) -> dict[str, Any] | None:
    """Measures how often the head is right.

    Args:
        names: `regions` of the config; None without a head.
        parts: Parts of a split, each with its predictions. Only views with a single one of `names` count.

    Returns:
        `names`; `n` views; `mean`, the accuracy, with `low` and `high` (95 % interval over patients); and the
        `confusion` matrix, a row for each true and a column for each predicted region. None if no view counts.
    """
    numbers = {name: number for number, name in enumerate(names or ())}
    counted = [
        (numbers[region], int(predicted), patient)
        for rows, predictions in parts
        if predictions.predicted_regions is not None and "region" in rows.column_names
        for region, predicted, patient in zip(
            rows["region"], predictions.predicted_regions, rows["patient_id"], strict=True
        )
        if region in numbers
    ]
    if not counted:
        return None
    truth, found, patients = (np.asarray(values) for values in zip(*counted, strict=True))
    confusion = np.zeros((len(numbers), len(numbers)), int)
    np.add.at(confusion, (truth, found), 1)
    accuracy = mean_with_interval(found == truth, patients)
    return {"names": list(numbers), "n": len(counted), **accuracy, "confusion": confusion.tolist()}
