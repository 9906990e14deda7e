"""Recipes against each other on the same data."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageClassification

from ..data import ViewDataset
from ..errors import DatasetError
from ..evaluation import classification_metrics, paired_bootstrap
from ..models import MuraImageProcessor
from ..training import FINISHED_FILE, load_recipe, predict_views, train

_ANSWERS_FILE = "valid_studies.npz"
_FIGURES = ("auroc", "kappa", "sensitivity", "specificity")


def compare_recipes(
    datasets: DatasetDict,
    pairs: Sequence[tuple[str, str]],
    output_dir: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    data_description: dict[str, Any],
    trained_on_phantoms: bool = False,
    cpu: bool = False,
    cache_dir: str | Path | None = None,
    alone: Sequence[str] = (),
    report_dir: str | Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Trains each recipe with each seed on the same cut of the data, and compares the answers on `valid` in pairs.

    Differences are paired: both of a pair are measured on the same resamples of patients (see `paired_bootstrap`), and
    figures are averaged over the seeds. The interval is about other patients; how far seeds differ shows in the
    figures by seed. A run that stands finished in `output_dir` is not trained again.

    Args:
        datasets: All splits.
        pairs: Names or files of recipes, or names of `answer_otherwise`; the second of a pair is what the first is
            measured against.
        output_dir: A folder for each recipe and seed.
        seeds: Of the training; the cut of the data stays.
        data_description: What the data are.
        trained_on_phantoms: Whether they are synthetic.
        cpu: Whether to stay on the CPU.
        cache_dir: As in `train`.
        alone: Kinds of findings to compare apart, each against all normal studies.
        report_dir: Where `comparison.json` goes; `output_dir` where None.
        **changes: Fields of all recipes.

    Returns:
        What `comparison.json` holds: `recipes`, by name the seconds of training, the mean AUROC of the body parts,
        each ranked by itself (None where none has both labels), and the AUROC of each seed and their mean; `pairs`,
        for each group of studies the difference of each figure with `low`, `high` and `p_value`.

    Raises:
        DatasetError: If `valid` lacks a class, or a kind of finding to be compared apart.
    """
    output_dir, valid = Path(output_dir), datasets["valid"]
    if set(valid["label"]) != {0, 1}:
        raise DatasetError("valid needs normal and abnormal studies to compare on; use more studies")
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    runs = [(name, seed) for seed in seeds for name in names]
    for name, seed in tqdm(runs, desc="Comparing"):
        folder = output_dir / f"{Path(name).stem}-{seed}"
        if not (folder / FINISHED_FILE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            recipe = load_recipe(name, seed=seed, **changes)
            AcceleratorState._reset_state()
            train(
                datasets, recipe, folder, data_description=data_description,
                trained_on_phantoms=trained_on_phantoms, cpu=cpu, cache_dir=cache_dir,
            )  # fmt: skip
        if not (folder / _ANSWERS_FILE).is_file():
            _answer(folder, valid, cpu)
    groups = _groups(valid, alone)
    report: dict[str, Any] = {"seeds": list(seeds), "recipes": {}, "pairs": {}}
    for name in names:
        answers, seconds = _read(output_dir, name, seeds)
        report["recipes"][Path(name).stem] = {
            "seconds": seconds,
            "mean_auroc_of_parts": _mean_of_parts(valid, answers),
            **_figures(valid, answers, groups),
        }
    for first, second in pairs:
        one, other = (_read(output_dir, name, seeds)[0] for name in (first, second))
        labels, patients = _truth(valid)
        report["pairs"][f"{Path(first).stem} - {Path(second).stem}"] = {
            group: {
                figure: row
                for figure, row in paired_bootstrap(labels[rows], one[:, rows], other[:, rows], patients[rows]).items()
                if figure in _FIGURES
            }
            for group, rows in groups.items()
        }
    place = output_dir if report_dir is None else Path(report_dir)
    place.mkdir(parents=True, exist_ok=True)
    (place / "comparison.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def answer_otherwise(
    output_dir: str | Path, source: str, name: str, *, seeds: Sequence[int] = (0, 1, 2), **fields: Any
) -> None:
    """Makes finished runs that differ from those of a recipe in how the model answers, not in its weights.

    Args:
        output_dir: As in `compare_recipes`, with finished runs of `source`.
        source: Name of a recipe.
        name: What to call the runs; `compare_recipes` takes it in the place of a recipe's.
        seeds: Of the runs.
        **fields: Of the config, such as `test_time_flip=True`.
    """
    for seed in seeds:
        base, folder = (Path(output_dir) / f"{run}-{seed}" for run in (source, name))
        if (folder / FINISHED_FILE).is_file():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns(_ANSWERS_FILE, FINISHED_FILE))
        config = AutoConfig.from_pretrained(base / "checkpoint")
        for field, value in fields.items():
            setattr(config, field, value)
        config.save_pretrained(folder / "checkpoint")
        shutil.copy(base / FINISHED_FILE, folder)


def take_studies(rows: Dataset, n: int, seed: int = 0) -> Dataset:
    """About `n` studies of a split, those of randomly drawn patients, whole."""
    by_patient: dict[str, set[str]] = {}
    for patient, study in zip(rows["patient_id"], rows["study_id"], strict=True):
        by_patient.setdefault(patient, set()).add(study)
    kept: set[str] = set()
    studies = 0
    for patient in np.random.default_rng(seed).permutation(sorted(by_patient)):
        if studies >= n:
            break
        kept.add(patient)
        studies += len(by_patient[patient])
    return rows.select([row for row, patient in enumerate(rows["patient_id"]) if patient in kept])


def _answer(folder: Path, valid: Dataset, cpu: bool) -> None:
    """Writes what a run says of the studies of valid."""
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=cpu)
    checkpoint = folder / "checkpoint"
    model = accelerator.prepare_model(
        AutoModelForImageClassification.from_pretrained(checkpoint), evaluation_mode=True
    )
    views = ViewDataset(valid, MuraImageProcessor.from_pretrained(checkpoint))
    found = predict_views(model, views, accelerator, progress=folder.name)
    studies = found.by_study()
    np.savez(folder / _ANSWERS_FILE, study_ids=list(studies), probabilities=[row[0] for row in studies.values()])


def _read(folder: Path, name: str, seeds: Sequence[int]) -> tuple[np.ndarray, list[float]]:
    """Probabilities `[seeds, studies]` of a recipe's runs, and the seconds of their training."""
    answers, seconds = [], []
    for seed in seeds:
        run = folder / f"{Path(name).stem}-{seed}"
        with np.load(run / _ANSWERS_FILE) as found:
            answers.append(found["probabilities"])
        seconds.append(json.loads((run / "checkpoint" / "training.json").read_text())["seconds"])
    return np.stack(answers), seconds


def _truth(valid: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Labels and patients of the studies, in first-seen order."""
    first: dict[str, tuple[int, str]] = {}
    for study, label, patient in zip(valid["study_id"], valid["label"], valid["patient_id"], strict=True):
        first.setdefault(study, (label, patient))
    labels, patients = zip(*first.values(), strict=True)
    return np.asarray(labels), np.asarray(patients)


def _groups(valid: Dataset, alone: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows of the studies: all, and each kind of finding with all normal studies."""
    labels, _ = _truth(valid)
    groups = {"all": np.arange(len(labels))}
    if alone:
        known: dict[str, str | None] = {}
        column = valid["finding"] if "finding" in valid.column_names else [None] * len(valid)
        for study, kind in zip(valid["study_id"], column, strict=True):
            known.setdefault(study, kind)
        kinds = np.asarray([kind or "" for kind in known.values()])
        for kind in alone:
            if kind not in kinds:
                raise DatasetError(f"no study of valid has the finding {kind!r}, so it cannot be compared apart")
            groups[kind] = np.flatnonzero((labels == 0) | (kinds == kind))
    return groups


def _figures(valid: Dataset, answers: np.ndarray, groups: dict[str, np.ndarray]) -> dict[str, Any]:
    """AUROC of each seed and their mean, by group."""
    labels, _ = _truth(valid)
    found = {}
    for group, rows in groups.items():
        each = [classification_metrics(labels[rows], run[rows])["auroc"] for run in answers]
        found[group] = {"auroc_by_seed": each, "auroc": float(np.mean(np.asarray(each, float)))}
    return found


def _mean_of_parts(valid: Dataset, answers: np.ndarray) -> float | None:
    """Mean over seeds and body parts of the AUROC within a part."""
    labels, _ = _truth(valid)
    parts = np.asarray(list(dict(zip(valid["study_id"], valid["body_part"], strict=True)).values()))
    rows = [parts == part for part in set(parts.tolist()) if set(labels[parts == part]) == {0, 1}]
    each = [float(classification_metrics(labels[row], run[row])["auroc"] or 0) for row in rows for run in answers]
    return float(np.mean(each)) if each else None
