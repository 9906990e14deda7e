"""Trains configs with several seeds on the same data, and compares them in pairs on `valid`.

    python scripts/benchmarks/compare.py --pairs x_attention:x_mean --data_dir MURA-v1.1 --output_dir runs/attention

Differences are paired: both configs of a pair predict the same studies, and `paired_comparison` adds the variance
between seeds to that over patients. Finished runs in the output folder are not trained again, and interrupted ones are
resumed.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset, DatasetDict
from harness import CONFIGS
from scipy.special import expit, logit
from tqdm.auto import tqdm
from transformers import AutoConfig

from mura_hf.common import home_folder
from mura_hf.data import load_data
from mura_hf.errors import DatasetError, MuraError
from mura_hf.evaluation import describe_source
from mura_hf.evaluation.prediction_cache import PredictionCache
from mura_hf.metrics import classification_metrics, confidence_intervals, paired_comparison
from mura_hf.training import FINISHED_FILE, load_config, train

_FIGURES = ("auroc", "kappa", "sensitivity", "specificity")
_EDGE = 1e-12  # probabilities are kept this far from 0 and 1, so that their logits are finite


def compare_configs(
    datasets: DatasetDict,
    pairs: Sequence[tuple[str, str]],
    output_dir: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    data_description: dict[str, Any],
    trained_on_phantoms: bool = False,
    cpu: bool = False,
    cache_dir: str | Path | None = None,
    findings: Sequence[str] = (),
    regions: Mapping[str, Sequence[str]] | None = None,
    match_prevalence: bool = False,
    report_dir: str | Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Trains each config with each seed on the same splits, and compares their predictions on `valid` in pairs.

    Figures are averaged over the seeds. Intervals are over patients and seeds.

    Args:
        datasets: All splits.
        pairs: Names or files of configs, or names given to `change_predictions`. The first of a pair is measured
            against the second.
        output_dir: Gets a folder for each config and seed.
        seeds: Seeds of the training; the splits are the same for all.
        data_description: Describes the data in `training.json`.
        trained_on_phantoms: Whether the data are synthetic.
        cpu: Whether to stay on the CPU.
        cache_dir: As in `train`.
        findings: Kinds of findings to compare separately, each against all normal studies.
        regions: Name -> regions. Studies that show one of them are compared separately; for data with a column
            `region`.
        match_prevalence: Whether the threshold of each run is the one that calls as many studies of calib abnormal as
            are (see `shift_threshold`), instead of .5.
        report_dir: Folder for the report; `output_dir` if None.
        **changes: Fields to change in all configs.

    Returns:
        The content of `comparison.json`. `recipes`, by config: the seconds of training, the mean AUROC of the body
        parts, each ranked by itself (None if no part has both labels), and for each group of studies their numbers,
        the AUROC of each seed, that of the seeds' mean probability (`auroc_together`), and each figure's mean over
        seeds with its interval. `pairs`: for each group the difference of each figure with `low`, `high` and
        `p_value`.

    Raises:
        DatasetError: If `valid` lacks a class, or a kind of finding or a region that is to be compared.
    """
    output_dir, valid = Path(output_dir), datasets["valid"]
    splits = ("valid", "calib") if match_prevalence else ("valid",)
    for split in splits:
        if set(datasets[split]["label"]) != {0, 1}:
            raise DatasetError(f"{split} needs normal and abnormal studies to compare on; use more studies")
    groups = {**_finding_groups(valid, findings), **_region_groups(valid, regions or {})}
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    for name, seed in tqdm([(name, seed) for seed in seeds for name in names], desc="Comparing"):
        folder = _run_folder(output_dir, name, seed)
        if not (folder / FINISHED_FILE).is_file():
            AcceleratorState._reset_state()
            train(
                datasets, load_config(name, [CONFIGS], seed=seed, **changes), folder,
                data_description=data_description,
                trained_on_phantoms=trained_on_phantoms, cpu=cpu, cache_dir=cache_dir,
            )  # fmt: skip
    labels, patients = _study_columns(valid, "label", "patient_id")
    probabilities = {}
    for name in names:
        runs = [_run_folder(output_dir, name, seed) for seed in seeds]
        found = [predict_studies(run, valid, cpu=cpu) for run in runs]
        if match_prevalence:
            (calib_labels,) = _study_columns(datasets["calib"], "label")
            reference = [predict_studies(run, datasets["calib"], cpu=cpu) for run in runs]
            found = [shift_threshold(one, other, calib_labels) for one, other in zip(found, reference, strict=True)]
        probabilities[name] = np.stack(found)
    report: dict[str, Any] = {"seeds": list(seeds), "recipes": {}, "pairs": {}}
    for name in names:
        report["recipes"][Path(name).stem] = {
            "seconds": [_training_seconds(_run_folder(output_dir, name, seed)) for seed in seeds],
            "mean_auroc_of_parts": _mean_auroc_of_parts(valid, probabilities[name]),
            **{
                group: _measure(labels[rows], probabilities[name][:, rows], patients[rows])
                for group, rows in groups.items()
            },
        }
    for first, second in pairs:
        report["pairs"][f"{Path(first).stem} - {Path(second).stem}"] = {
            group: {
                figure: row
                for figure, row in paired_comparison(
                    labels[rows], probabilities[first][:, rows], probabilities[second][:, rows], patients[rows]
                ).items()
                if figure in _FIGURES
            }
            for group, rows in groups.items()
        }
    folder = output_dir if report_dir is None else Path(report_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "comparison.md").write_text(comparison_tables(report))
    plot_comparison(report, folder / "comparison.png")
    return report


def change_predictions(
    output_dir: str | Path, source: str, name: str, *, seeds: Sequence[int] = (0, 1, 2), **fields: Any
) -> None:
    """Copies finished runs of a config under another name, with other fields in the config of their checkpoints.

    Args:
        output_dir: As in `compare_configs`, with finished runs of `source`.
        source: Name of a config.
        name: Name of the copies, which `compare_configs` takes like that of a config.
        seeds: Of the runs.
        **fields: Of the checkpoint's config that change predictions but not weights, such as `test_time_flip=True`.
    """
    for seed in seeds:
        base, folder = (_run_folder(Path(output_dir), run, seed) for run in (source, name))
        if (folder / FINISHED_FILE).is_file():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns(FINISHED_FILE))
        config = AutoConfig.from_pretrained(base / "checkpoint")
        for field, value in fields.items():
            setattr(config, field, value)
        config.save_pretrained(folder / "checkpoint")
        shutil.copy(base / FINISHED_FILE, folder)


def predict_studies(run: Path, rows: Dataset, *, cpu: bool = False) -> np.ndarray:
    """Probabilities of the studies of a split by the checkpoint of a run, float64 `[n]` in first-seen order."""
    AcceleratorState._reset_state()
    cache = PredictionCache(run / "checkpoint", rows, Accelerator(cpu=cpu))
    return cache.predict(progress=run.name).study_probabilities()[0]


def shift_threshold(probabilities: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Shifts probabilities on the logit scale so that .5 calls as many of some other studies abnormal as are abnormal.

    A network's own .5 means little if classes were balanced or weighted in training. Matching the prevalence is close
    to the best threshold for kappa, and more stable on few studies than a search for the best.

    Args:
        probabilities: `[n]`, in [0, 1].
        reference: `[m]`, of the other studies (calib, never those that are measured).
        labels: `[m]`, their labels.

    Returns:
        float64 `[n]`, in the same order of ranks.
    """
    threshold = np.quantile(reference, 1 - float(np.mean(labels)))
    logits, shift = (logit(np.clip(values, _EDGE, 1 - _EDGE)) for values in (probabilities, threshold))
    return expit(logits - shift)


def take_studies(rows: Dataset, n: int, seed: int = 0) -> Dataset:
    """About `n` studies of a split: all studies of randomly drawn patients."""
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


def comparison_tables(report: dict[str, Any]) -> str:
    """Two tables in Markdown: the figures of each config, and the differences in AUROC of each pair."""
    groups = [name for name, found in next(iter(report["recipes"].values())).items() if isinstance(found, dict)]
    counts = next(iter(report["recipes"].values()))
    heads = [f"{group} ({counts[group]['n_abnormal']} of {counts[group]['n']})" for group in groups]
    lines = [
        f"Studies of valid (abnormal of all), mean of {len(report['seeds'])} seeds with 95 % intervals over patients "
        'and seeds; "together" is the mean of the seeds\' probabilities.',
        "",
        _line("config", "figure", *heads),
        _line(*["---"] * (len(groups) + 2)),
    ]
    for name, found in report["recipes"].items():
        for figure in ("auroc", "kappa"):
            lines.append(_line(name, figure, *(_with_interval(found[group], figure) for group in groups)))
        by_seed = (", ".join(map(_short, found[group]["auroc_by_seed"])) for group in groups)
        lines.append(_line(name, "auroc by seed", *by_seed))
        lines.append(_line(name, "auroc, together", *(_short(found[group]["auroc_together"]) for group in groups)))
    lines += ["", _line("difference in AUROC", *groups), _line(*["---"] * (len(groups) + 1))]
    for pair, found in report["pairs"].items():
        lines.append(_line(pair, *(_difference(found[group]["auroc"]) for group in groups)))
    return "\n".join(lines) + "\n"


def plot_comparison(report: dict[str, Any], path: Path) -> None:
    """Draws the differences in AUROC with their intervals, a line for each pair and group of studies."""
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
        if row["low"] is not None:
            axis.plot([row["low"], row["high"]], [place, place], color="#1f4e79", linewidth=2)
        axis.plot(row["difference"], place, marker="o", color="#1f4e79")
    axis.axvline(0, color="0.5", linewidth=1)
    axis.set_yticks(range(len(lines)), [name for name, _ in reversed(lines)])
    axis.set(xlabel=f"AUROC difference, mean of {len(report['seeds'])} seeds, 95 % interval over patients and seeds")
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def _run_folder(output_dir: Path, name: str, seed: int) -> Path:
    return output_dir / f"{Path(name).stem}-{seed}"


def _training_seconds(run: Path) -> float:
    return float(json.loads((run / "checkpoint" / "training.json").read_text())["seconds"])


def _study_columns(rows: Dataset, *columns: str) -> list[np.ndarray]:
    """Columns of the first row of each study, each `[n]` in first-seen order."""
    first: dict[str, tuple[Any, ...]] = {}
    for study, *values in zip(rows["study_id"], *(rows[column] for column in columns), strict=True):
        first.setdefault(study, tuple(values))
    return [np.asarray(values) for values in zip(*first.values(), strict=True)]


def _finding_groups(valid: Dataset, findings: Sequence[str]) -> dict[str, np.ndarray]:
    """Row indices of the studies: all of them, and each kind of finding with all normal studies."""
    (labels,) = _study_columns(valid, "label")
    groups = {"all": np.arange(len(labels))}
    if findings:
        known = _study_columns(valid, "finding")[0] if "finding" in valid.column_names else [None] * len(labels)
        kinds = np.asarray([kind or "" for kind in known])
        for kind in findings:
            if kind not in kinds:
                raise DatasetError(f"no study of valid has the finding {kind!r}, so it cannot be compared separately")
            groups[kind] = np.flatnonzero((labels == 0) | (kinds == kind))
    return groups


def _region_groups(valid: Dataset, regions: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Row indices of the studies that show one of the regions of a group."""
    if not regions:
        return {}
    if "region" not in valid.column_names:
        raise DatasetError("the data have no regions, so they cannot be compared separately; leave out regions")
    labels, shown = _study_columns(valid, "label", "region")
    groups = {
        name: np.flatnonzero([bool(set(words) & set(one.split("+"))) for one in shown])
        for name, words in regions.items()
    }
    for name, rows in groups.items():
        if set(labels[rows].tolist()) != {0, 1}:
            raise DatasetError(
                f"valid lacks normal or abnormal studies of {name}, so it cannot be compared separately"
            )
    return groups


def _measure(labels: np.ndarray, probabilities: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Figures of a group of studies from probabilities `[seeds, n]`."""
    by_seed = [classification_metrics(labels, run) for run in probabilities]
    intervals = confidence_intervals(labels, probabilities, patients)
    figures = [name for name in _FIGURES if all(one[name] is not None for one in by_seed)]
    return {
        "n": len(labels),
        "n_abnormal": int(labels.sum()),
        "auroc_by_seed": [one["auroc"] for one in by_seed],
        "auroc_together": classification_metrics(labels, probabilities.mean(0))["auroc"],
        **{figure: float(np.mean([one[figure] for one in by_seed])) for figure in figures},
        "intervals": {figure: list(intervals[figure]) for figure in figures if figure in intervals},
    }


def _mean_auroc_of_parts(valid: Dataset, probabilities: np.ndarray) -> float | None:
    """Mean over seeds and body parts of the AUROC within a part."""
    labels, parts = _study_columns(valid, "label", "body_part")
    rows = [parts == part for part in set(parts.tolist()) - {None} if set(labels[parts == part]) == {0, 1}]
    aurocs = [
        float(classification_metrics(labels[row], run[row])["auroc"] or 0) for row in rows for run in probabilities
    ]
    return float(np.mean(aurocs)) if aurocs else None


def _with_interval(found: dict[str, Any], figure: str) -> str:
    interval = found["intervals"].get(figure)
    return _short(found[figure]) + (f" ({_short(interval[0])} to {_short(interval[1])})" if interval else "")


def _difference(row: dict[str, Any]) -> str:
    found = _short(row["difference"], "+")
    return found if row["low"] is None else f"{found} ({_short(row['low'], '+')} to {_short(row['high'], '+')})"


def _short(value: float, sign: str = "") -> str:
    """Three decimals, without the leading zero."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", required=True, metavar="FIRST:SECOND",
                        help="configs; the first is measured against the second")  # fmt: skip
    parser.add_argument("--data_dir", required=True, help="folder of the data; the kind of data is detected")
    parser.add_argument("--output_dir", required=True, help="folder for the runs, comparison.json, .md and .png")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the training")
    parser.add_argument("--n_studies", type=int, help="train on about this many studies only")
    parser.add_argument("--alone", nargs="+", default=[], help="kinds of findings to compare separately")
    parser.add_argument("--epochs", type=int, help="instead of the configs' own; for configs without stages")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args(argv)
    pairs = [tuple(pair.split(":")) for pair in options.pairs]
    if wrong := [":".join(pair) for pair in pairs if len(pair) != 2 or not all(pair)]:
        parser.error(f"{wrong[0]!r} is not a pair; write FIRST:SECOND")
    try:
        datasets, source = load_data(options.data_dir, **load_config(pairs[0][1], [CONFIGS]).split_options())
        if options.n_studies:
            datasets["train"] = take_studies(datasets["train"], options.n_studies)
        report = compare_configs(
            datasets,
            pairs,
            options.output_dir,
            seeds=options.seeds,
            data_description={**describe_source(source, options.data_dir), "body_parts": "all"},
            trained_on_phantoms=source.key == "phantoms",
            cpu=options.cpu,
            cache_dir=home_folder() / "pixels",
            findings=options.alone,
            **({} if options.epochs is None else {"epochs": options.epochs}),
        )
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(comparison_tables(report), end="")


if __name__ == "__main__":
    main()
