"""What trained runs say of the studies of a split, kept beside them.

Recipes against each other on the same data.
A plot of recipes against each other.
A table of recipes against each other.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset, DatasetDict
from scipy.special import expit, logit
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageClassification

from mura_hf.data import ViewDataset
from mura_hf.errors import DatasetError
from mura_hf.metrics import bootstrap_confidence_intervals, classification_metrics, paired_bootstrap
from mura_hf.models import MuraImageProcessor
from mura_hf.training import FINISHED_FILE, load_recipe, predict_views, train

_EDGE = 1e-12  # probabilities are kept this far from 0 and 1, so that their logits stay finite


def answer_split(run: Path, rows: Dataset, split: str, *, cpu: bool = False) -> None:
    """Writes what a run's checkpoint says of the studies of a split, unless that stands already.

    Args:
        run: Folder of the run, with `checkpoint/`.
        rows: The split.
        split: Its name.
        cpu: Whether to stay on the CPU.
    """
    if _file(run, split).is_file():
        return
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=cpu)
    checkpoint = run / "checkpoint"
    model = accelerator.prepare_model(
        AutoModelForImageClassification.from_pretrained(checkpoint), evaluation_mode=True
    )
    views = ViewDataset(rows, MuraImageProcessor.from_pretrained(checkpoint))
    studies = predict_views(model, views, accelerator, progress=f"{run.name}, {split}").by_study()
    np.savez(_file(run, split), study_ids=list(studies), probabilities=[row[0] for row in studies.values()])


def read_answers(run: Path, rows: Dataset, split: str) -> np.ndarray:
    """Probabilities of the studies of a split, float64 `[n]` in first-seen order.

    Raises:
        DatasetError: If the answers are about other studies.
    """
    with np.load(_file(run, split)) as found:
        if list(found["study_ids"]) != list(dict.fromkeys(rows["study_id"])):
            raise DatasetError(f"{_file(run, split)} is about other studies; remove it, or name a new folder")
        return found["probabilities"].astype(np.float64)


def read_truth_of(rows: Dataset, *columns: str) -> list[np.ndarray]:
    """Columns of the studies' first rows, each `[n]` in first-seen order."""
    first: dict[str, tuple[Any, ...]] = {}
    for study, *values in zip(rows["study_id"], *(rows[column] for column in columns), strict=True):
        first.setdefault(study, tuple(values))
    return [np.asarray(values) for values in zip(*first.values(), strict=True)]


def call_as_many(probabilities: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities moved along so that a threshold of .5 calls as many of some other studies abnormal as are.

    A network's own .5 means little where classes were balanced or weighted in training. Calling as many as there are
    is close to the best for kappa, and steadier on few studies than looking for the best.

    Args:
        probabilities: `[n]`, in [0, 1].
        reference: `[m]`, of the other studies (calib, never those that are measured).
        labels: `[m]`, theirs.

    Returns:
        float64 `[n]`, ranked as before.
    """
    threshold = np.quantile(reference, 1 - float(np.mean(labels)))
    odds, at = (logit(np.clip(values, _EDGE, 1 - _EDGE)) for values in (probabilities, threshold))
    return expit(odds - at)


def _file(run: Path, split: str) -> Path:
    return run / f"{split}_studies.npz"


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
    regions: Mapping[str, Sequence[str]] | None = None,
    call_by_calib: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """Trains each recipe with each seed on the same cut of the data, and compares the answers on `valid` in pairs.

    Differences are paired: both of a pair are measured on the same resamples of patients (see `paired_bootstrap`), and
    figures are averaged over the seeds. The interval is about other patients; how far seeds differ shows in the
    figures by seed. A run that stands finished in `output_dir` is not trained again, one that was cut off goes on.

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
        regions: Groups of studies to compare apart, each those that show one of some regions: `{"upper limb": ["hand",
            "shoulder"]}`; for data with a column `region`.
        call_by_calib: Whether abnormal is called above the probability that calls as many studies of calib as are
            abnormal, by each run for itself (see `call_as_many`), instead of above .5.
        **changes: Fields of all recipes.

    Returns:
        What `comparison.json` holds: `recipes`, by name the seconds of training, the mean AUROC of the body parts,
        each ranked by itself (None where none has both labels), and for each group of studies their numbers, the
        AUROC of each seed, that of the seeds' mean probability (`auroc_together`), and for each figure the mean over
        seeds with its interval; `pairs`, for each group the difference of each figure with `low`, `high` and
        `p_value`.

    Raises:
        DatasetError: If `valid` lacks a class, or a kind of finding or a region to be compared apart.
    """
    output_dir, valid = Path(output_dir), datasets["valid"]
    for split in ("valid", "calib") if call_by_calib else ("valid",):
        if set(datasets[split]["label"]) != {0, 1}:
            raise DatasetError(f"{split} needs normal and abnormal studies to compare on; use more studies")
    groups = {**_groups(valid, alone), **_regions(valid, regions or {})}
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    runs = [(name, seed) for seed in seeds for name in names]
    for name, seed in tqdm(runs, desc="Comparing"):
        folder = output_dir / f"{Path(name).stem}-{seed}"
        if not (folder / FINISHED_FILE).is_file():
            for stale in folder.glob("*_studies.npz"):
                stale.unlink()
            recipe = load_recipe(name, seed=seed, **changes)
            AcceleratorState._reset_state()
            train(
                datasets, recipe, folder, data_description=data_description,
                trained_on_phantoms=trained_on_phantoms, cpu=cpu, cache_dir=cache_dir,
            )  # fmt: skip
        for split in ("valid", "calib") if call_by_calib else ("valid",):
            answer_split(folder, datasets[split], split, cpu=cpu)
    labels, patients = read_truth_of(valid, "label", "patient_id")
    answers = {name: _read(output_dir, name, seeds, datasets, call_by_calib) for name in names}
    report: dict[str, Any] = {"seeds": list(seeds), "recipes": {}, "pairs": {}}
    for name in names:
        report["recipes"][Path(name).stem] = {
            "seconds": [_seconds(output_dir / f"{Path(name).stem}-{seed}") for seed in seeds],
            "mean_auroc_of_parts": _mean_of_parts(valid, answers[name]),
            **{
                group: _figures(labels[rows], answers[name][:, rows], patients[rows]) for group, rows in groups.items()
            },
        }
    for first, second in pairs:
        one, other = answers[first], answers[second]
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
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*_studies.npz", FINISHED_FILE))
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


def _read(folder: Path, name: str, seeds: Sequence[int], datasets: DatasetDict, call_by_calib: bool) -> np.ndarray:
    """Probabilities `[seeds, studies]` of valid by a recipe's runs."""
    answers = []
    for seed in seeds:
        run = folder / f"{Path(name).stem}-{seed}"
        found = read_answers(run, datasets["valid"], "valid")
        if call_by_calib:
            (labels,) = read_truth_of(datasets["calib"], "label")
            found = call_as_many(found, read_answers(run, datasets["calib"], "calib"), labels)
        answers.append(found)
    return np.stack(answers)


def _seconds(run: Path) -> float:
    """Of the training."""
    return float(json.loads((run / "checkpoint" / "training.json").read_text())["seconds"])


def _groups(valid: Dataset, alone: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows of the studies: all, and each kind of finding with all normal studies."""
    (labels,) = read_truth_of(valid, "label")
    groups = {"all": np.arange(len(labels))}
    if alone:
        known = read_truth_of(valid, "finding")[0] if "finding" in valid.column_names else [None] * len(labels)
        kinds = np.asarray([kind or "" for kind in known])
        for kind in alone:
            if kind not in kinds:
                raise DatasetError(f"no study of valid has the finding {kind!r}, so it cannot be compared apart")
            groups[kind] = np.flatnonzero((labels == 0) | (kinds == kind))
    return groups


def _regions(valid: Dataset, regions: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Rows of the studies that show one of the regions of a group."""
    if not regions:
        return {}
    if "region" not in valid.column_names:
        raise DatasetError("the data do not tell regions, so they cannot be compared apart; leave out regions")
    labels, shown = read_truth_of(valid, "label", "region")
    groups = {
        name: np.flatnonzero([bool(set(words) & set(one.split("+"))) for one in shown])
        for name, words in regions.items()
    }
    for name, rows in groups.items():
        if set(labels[rows].tolist()) != {0, 1}:
            raise DatasetError(f"valid lacks normal or abnormal studies of {name}, so it cannot be compared apart")
    return groups


def _figures(labels: np.ndarray, answers: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Figures of some studies by runs that answered `[seeds, n]`."""
    each = [classification_metrics(labels, run) for run in answers]
    limits = bootstrap_confidence_intervals(labels, answers, patients)
    known = [figure for figure in _FIGURES if figure in limits and all(one[figure] is not None for one in each)]
    return {
        "n": len(labels),
        "n_abnormal": int(labels.sum()),
        "auroc_by_seed": [one["auroc"] for one in each],
        "auroc_together": classification_metrics(labels, answers.mean(0))["auroc"],
        **{figure: float(np.mean([one[figure] for one in each])) for figure in known},
        "intervals": {figure: list(limits[figure]) for figure in known},
    }


def _mean_of_parts(valid: Dataset, answers: np.ndarray) -> float | None:
    """Mean over seeds and body parts of the AUROC within a part."""
    labels, parts = read_truth_of(valid, "label", "body_part")
    known = set(parts.tolist()) - {None}
    rows = [parts == part for part in known if set(labels[parts == part]) == {0, 1}]
    each = [float(classification_metrics(labels[row], run[row])["auroc"] or 0) for row in rows for run in answers]
    return float(np.mean(each)) if each else None


def plot_comparison(report: dict[str, Any], folder: str | Path) -> Path:
    """Draws the differences in AUROC with their intervals, a line for each pair and group of studies.

    Args:
        report: Of `compare_recipes`.
        folder: Where `comparison.png` goes.

    Returns:
        The file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [
        (f"{pair}, {group.replace('_', ' ')} studies", figures["auroc"])
        for pair, groups in report["pairs"].items()
        for group, figures in groups.items()
        if "auroc" in figures
    ]
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, (_, row) in enumerate(reversed(lines)):
        axis.plot([row["low"], row["high"]], [place, place], color="#1f4e79", linewidth=2)
        axis.plot(row["difference"], place, marker="o", color="#1f4e79")
    axis.axvline(0, color="0.5", linewidth=1)
    axis.set_yticks(range(len(lines)), [name for name, _ in reversed(lines)])
    axis.set(xlabel=f"Difference in AUROC, mean of {len(report['seeds'])} seeds, 95 % interval over patients")
    axis.grid(axis="x", alpha=0.3)
    path = Path(folder) / "comparison.png"
    figure.savefig(path, dpi=120)
    return path


def write_comparison_table(report: dict[str, Any], folder: str | Path) -> Path:
    """Writes AUROCs and their differences as a Markdown table, a row for each pair.

    Args:
        report: Of `compare_recipes`.
        folder: Where `comparison.md` goes.

    Returns:
        The file.
    """
    groups = [group for group in next(iter(report["pairs"].values()), {}) if group != "all"]
    titles = ["first against second", "first", "second", "difference", *(f"{_words(one)} apart" for one in groups)]
    lines = [titles, ["---"] * len(titles)]
    for pair, figures in report["pairs"].items():
        first, second = pair.split(" - ")
        lines.append(
            [
                f"`{first}` against `{second}`",
                *(_aurocs(report["recipes"][name]["all"]) for name in (first, second)),
                *(_difference(figures[group]["auroc"]) for group in ("all", *groups)),
            ]
        )
    path = Path(folder) / "comparison.md"
    path.write_text("".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    return path


def _words(group: str) -> str:
    return group.replace("_", " ")


def _aurocs(found: dict[str, Any]) -> str:
    """The mean, and each seed in brackets."""
    return f"{_short(found['auroc'])} ({', '.join(map(_short, found['auroc_by_seed']))})"


def _difference(row: dict[str, float]) -> str:
    return f"{_short(row['difference'], '+')} ({_short(row['low'], '+')} to {_short(row['high'], '+')})"


def _short(value: float, sign: str = "") -> str:
    """Three decimals without the zero in front of them."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1)
