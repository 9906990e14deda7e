"""Measures what fine-tuning on a small data set gains.

Topics (6 and 25 minutes):
  fine_tune        mura-phantom is fine-tuned on 200 wrist studies with a finding and an exposure that it was not
                   trained on, and compared with itself before, on 300 other studies of that kind
  fine_tune_films  mura-film is fine-tuned on 40 films of FracAtlas (in data/fracatlas) that it has never seen, and
                   compared with itself before, on 20 others and on all films of other blocks; five draws
                   (10 GB of memory)
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset, DatasetDict, Image
from harness import DATA, run_benchmark
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageClassification

from mura_hf.data import ViewDataset, load_data
from mura_hf.errors import DatasetError
from mura_hf.evaluation import describe_source, finalize_checkpoint, load_split
from mura_hf.evaluation.splits import rows_to_measure
from mura_hf.metrics import calibrate_studies, classification_metrics, paired_comparison
from mura_hf.models import LABELS, MuraImageProcessor
from mura_hf.phantoms import write_phantom_mura
from mura_hf.training import load_config, predict_views, train
from mura_hf.training.fine_tuning import changes_for
from mura_hf.training.initialization import find_base

FINDING, EXPOSURE, BODY_PART = "sclerotic_lesion", "underexposed", "wrist"
FRACATLAS = "doi 10.6084/m9.figshare.22363012"
FIGURES = ("auroc", "auprc", "brier", "sensitivity", "specificity")
_LEAST = 4  # films of each label in a draw


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
        checkpoint, datasets = _fine_tune(tree, folder / "run", "mura-phantom", changes)
        finished = time.monotonic()
        after, labels, patients = _predict(checkpoint, datasets["valid"])
        before, _, _ = _predict(find_base("mura-phantom").folder, datasets["valid"])
        training = json.loads((checkpoint / "training.json").read_text())
    return {
        "studies": {"train": sum(training["data"]["studies"][one] for one in ("train", "dev", "calib")),
                    "valid": len(labels)},
        "seconds": round(finished - rendered, 1),
        "seconds_phantoms": round(rendered - started, 1),
        "base": training["base"]["name"],
        **_compare(labels, before, after, patients, ("auroc", "kappa", "brier")),
    }  # fmt: skip


def measure_films(
    checkpoint: str = "mura-film",
    n_train: int = 40,
    n_others: int = 20,
    draws: int = 5,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tunes a checkpoint with the config `fine_tune` on a few films of the `valid` of its own cut of FracAtlas.

    Each draw takes whole blocks of films in random order, without looking at any prediction (see `draw_films`).

    Args:
        checkpoint: Bundled name or folder.
        n_train: Number of films, including those for `dev` and `calib`.
        n_others: Number of other films.
        draws: Number of draws.
        changes: Changes of the config.

    Returns:
        `draws`: for each draw its `seconds`, and for `others` (n_others films) and `rest` (all films of other blocks,
        including these) the numbers `films` and `abnormal`, and `auroc`, `auprc`, `brier`, `sensitivity` and
        `specificity` (at the operating point that applies by default), each with its value `before` and `after`, and
        `difference`, `low`, `high`, `p_value` of `paired_comparison` over blocks; `films` and `abnormal` of those
        trained on, and `threshold` `before` and `after`. `differences`: the same figures of `others` and `rest`, each
        with the `mean`, `lowest` and `highest` difference, and how often it is `worse` (its interval excludes 0).

    Raises:
        DatasetError: If there is no FracAtlas.
    """
    if not (DATA / "fracatlas").is_dir():
        raise DatasetError(f"{DATA / 'fracatlas'} does not exist; put FracAtlas there ({FRACATLAS})")
    base = find_base(checkpoint).folder
    rows = rows_to_measure(load_split(base, DATA / "fracatlas", "valid")[0]).cast_column("image", Image(decode=False))
    before, labels, blocks = _predict(base, rows)
    found = []
    for seed in tqdm(range(draws), desc="Draws"):
        train, others, rest = draw_films(labels, blocks, n_train, n_others, seed)
        with tempfile.TemporaryDirectory() as name:
            started = time.monotonic()
            _write_folder(Path(name, "films"), rows.select(train))
            tuned, _ = _fine_tune(
                Path(name, "films"), Path(name, "run"), checkpoint, {"valid_fraction": 0.0, **(changes or {})}
            )
            seconds = round(time.monotonic() - started, 1)
            after = np.full(len(rows), np.nan)
            after[rest], *_ = _predict(tuned, rows.select(rest))
            thresholds = [AutoConfig.from_pretrained(one).find_threshold()[1] for one in (base, tuned)]
        draw: dict[str, Any] = {"films": len(train), "abnormal": int(labels[train].sum()), "seconds": seconds}
        draw["threshold"] = dict(zip(("before", "after"), thresholds, strict=True))
        for side, members in (("others", others), ("rest", rest)):
            draw[side] = {
                "films": len(members),
                "abnormal": int(labels[members].sum()),
                **_compare(labels[members], before[members], after[members], blocks[members], FIGURES, thresholds),
            }
        tqdm.write(json.dumps({"draw": seed, **draw}))
        found.append(draw)
    differences = {
        side: {figure: _summarize([draw[side][figure] for draw in found], figure) for figure in FIGURES}
        for side in ("others", "rest")
    }
    return {"checkpoint": checkpoint, "differences": differences, "draws": found}


def draw_films(
    labels: np.ndarray, blocks: np.ndarray, n_train: int, n_others: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws films to train on, others, and all films of blocks that are not trained on, as indices in order.

    Whole blocks are taken in random order. A block with more films than are drawn remains, and what the last block of
    those trained on has too many is left out. Draws with fewer than four films of a label on either side are repeated.
    """
    rng = np.random.default_rng([seed, n_train, n_others])
    while True:
        order = [block for block in rng.permutation(np.unique(blocks)) if (blocks == block).sum() <= n_train]
        films = np.concatenate([rng.permutation(np.flatnonzero(blocks == block)) for block in order])
        train = films[:n_train]
        rest = np.flatnonzero(~np.isin(blocks, blocks[train]))
        others = films[np.isin(films, rest)][:n_others]
        if min(np.bincount(labels[side], minlength=2).min() for side in (train, others)) >= _LEAST:
            return np.sort(train), np.sort(others), rest


def _write_folder(folder: Path, rows: Dataset) -> None:
    """Writes films as a user's own folder: pictures and a table with their labels."""
    folder.mkdir()
    lines = ["file_name,label"]
    for row in rows:
        file = Path(row["image"]["path"])
        shutil.copy(file, folder / file.name)
        lines.append(f"{file.name},{LABELS[row['label']]}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def _fine_tune(data_dir: Path, run: Path, base: str, changes: Mapping[str, Any] | None) -> tuple[Path, DatasetDict]:
    """Does what `scripts/train.py --config fine_tune --init_from BASE` does; returns the checkpoint and the splits."""
    config = load_config("fine_tune")
    found, _ = changes_for(config, base)
    config = config.replace(**{**found, **(changes or {})})
    datasets, source = load_data(data_dir, **config.split_options())
    description = describe_source(source, data_dir)
    AcceleratorState._reset_state(reset_partial_state=True)
    checkpoint = train(
        datasets, config, run, data_description={**description, "body_parts": "all"},
        trained_on_phantoms=source.key == "phantoms", cpu=True, cache_dir=run.parent / "pixels",
    )  # fmt: skip
    finalize_checkpoint(checkpoint, datasets, data=description, start=find_base(base).folder, cpu=True)
    return checkpoint, datasets


def _predict(folder: Path, rows: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated probabilities, labels and patients of the studies, `[n]` each."""
    accelerator = Accelerator(cpu=True)
    model = AutoModelForImageClassification.from_pretrained(folder)
    views = ViewDataset(rows, MuraImageProcessor.from_pretrained(folder))
    model = accelerator.prepare_model(model.to(memory_format=torch.channels_last), evaluation_mode=True)
    found = predict_views(model, views, accelerator, batch_size=8, progress="valid")
    means, labels, patients, _ = (np.asarray(column) for column in zip(*found.by_study().values(), strict=True))
    return calibrate_studies(means, model.config.study_slope, model.config.study_intercept), labels, patients


def _compare(
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    patients: np.ndarray,
    figures: Sequence[str],
    thresholds: Sequence[float] = (0.5, 0.5),
) -> dict[str, Any]:
    """Figure -> `before`, `after` and the row of `paired_comparison` (after minus before)."""
    was, became = (
        classification_metrics(labels, values, threshold)
        for values, threshold in zip((before, after), thresholds, strict=True)
    )
    compared = paired_comparison(labels, after, before, patients, (thresholds[1], thresholds[0]))
    return {figure: {"before": was[figure], "after": became[figure], **compared.get(figure, {})} for figure in figures}


def _summarize(rows: Sequence[Mapping[str, Any]], figure: str) -> dict[str, Any]:
    """Summarizes the differences of a figure over the draws."""
    differences = [row["difference"] for row in rows]
    worse = [bool(row["low"] > 0 if figure == "brier" else row["high"] < 0) for row in rows if row["low"] is not None]
    return {
        **{when: float(np.mean([row[when] for row in rows])) for when in ("before", "after")},
        "mean": float(np.mean(differences)),
        "lowest": min(differences),
        "highest": max(differences),
        "worse": sum(worse),
        "with_interval": len(worse),
    }


TOPICS = {
    "fine_tune": (
        measure_fine_tuning,
        {
            "n_train": 40, "n_valid": 20, "size": 128,
            "changes": {"epochs": 1, "image_size": 96, "dev_fraction": 0.3, "calib_fraction": 0.2},
        },
    ),
    "fine_tune_films": (measure_films, {"n_train": 24, "n_others": 12, "draws": 1, "changes": {"epochs": 1}}),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
