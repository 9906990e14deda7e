"""An index of the studies that a checkpoint learned from, beside its weights.

Are the studies that an index finds like the one that was searched for?
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import CheckpointError
from ..inference import StudyPredictor
from ..metrics import bootstrap_confidence_intervals, bootstrap_mean, classification_metrics, paired_bootstrap
from ..models import BODY_PARTS, LABELS
from ..retrieval import FOLDER, Neighbour, RetrievalIndex, encode_rows
from .splits import load_splits

_UNFINISHED = f"{FOLDER}.unfinished"


def index_checkpoint(
    folder: str | Path,
    data_dir: str | Path,
    split: str = "train",
    *,
    metric: str = "l2",
    half: bool = False,
    factory: str | None = None,
    parameters: str = "",
    thumbnail_side: int | None = None,
    max_views: int | None = None,
    batch_size: int = 32,
    cpu: bool = False,
    progress: bool = True,
) -> RetrievalIndex:
    """Builds the index of a checkpoint and saves it in its `retrieval/`.

    What was finished of a build that was killed is kept beside it, and the next call goes on from there.

    Args:
        folder: The checkpoint.
        data_dir: What it was trained on.
        split: Of which the studies are.
        metric: As in `RetrievalIndex.build`, like the next four.
        half: Whether to keep codes in float16.
        factory: FAISS's factory string; exact search where None.
        parameters: FAISS's parameters at search time.
        thumbnail_side: Longer side of small pictures, in pixels; none where None.
        max_views: Studies are drawn, whole ones, until no further one fits into so many views; all where None.
        batch_size: Views a step.
        cpu: Whether to stay on the CPU.
        progress: Whether to show a progress bar.

    Raises:
        CheckpointError: If there is no such checkpoint, or it has no codes.
        DatasetError: If the data are not those of training, or cannot be read.
        ValueError: If an option is unknown, or there are no studies.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder on this machine; name that of a checkpoint")
    datasets, data = load_splits(folder, data_dir, split)
    predictor = StudyPredictor.from_pretrained(folder, device="cpu" if cpu else None)
    index = RetrievalIndex.build(
        take_views(datasets[split], max_views),
        predictor.model,
        predictor.processor,
        metric=metric,
        half=half,
        factory=factory,
        parameters=parameters,
        thumbnail_side=thumbnail_side,
        data=data,
        split=split,
        batch_size=batch_size,
        parts_dir=folder / _UNFINISHED,
        progress=progress,
    )
    index.save(folder / FOLDER)
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
    return index


def take_views(rows: Dataset, most: int | None, seed: int = 0) -> Dataset:
    """Whole studies of a split, drawn until the next would be more than so many views; in the split's order.

    Args:
        rows: The split.
        most: Views; all where None.
        seed: Of the drawing.

    Raises:
        ValueError: If not one study fits.
    """
    if most is None or most >= len(rows):
        return rows
    members: dict[str, list[int]] = {}
    for row, study in enumerate(rows["study_id"]):
        members.setdefault(study, []).append(row)
    studies = list(members.values())
    taken: list[int] = []
    for place in np.random.default_rng(seed).permutation(len(studies)):
        if len(taken) + len(studies[place]) > most:
            break
        taken += studies[place]
    if not taken:
        raise ValueError(f"max_views is {most}: it must hold one study at least")
    return rows.select(sorted(taken))


PRECISION_AT = 5
"""Neighbours that are looked at for precision."""
VOTERS = 25
"""Neighbours that vote where they classify."""
_ABOUT = ("body_part", "label", "finding")
_FIGURES = ("auroc", "kappa", "sensitivity", "specificity")
_N_RESAMPLES = 2000


def measure_retrieval(
    predictor: StudyPredictor, rows: Dataset, probabilities: dict[str, float], *, progress: bool = True
) -> dict[str, Any]:
    """Searches a checkpoint's index for each study of a split; the same patient's studies are left out.

    All is of studies, which are found by the nearest of their views; see `RetrievalIndex`.

    Args:
        predictor: A checkpoint with an index.
        rows: Of patients that the checkpoint has not seen.
        probabilities: Study id -> the checkpoint's own calibrated P(abnormal).
        progress: Whether to show a progress bar.

    Returns:
        `index`: its `studies`, `views`, `split`, `metric` and `build`. `n`: studies. `precision`: for `body_part`,
        `label` and `finding` (of abnormal studies), where index and rows tell them, over the studies that have one:
        `n`, `at` 5, `mean` share of the neighbours that have the same, `low` and `high` (95 % interval by a bootstrap
        over patients), and `chance`, the share of the index that has. `classification`: `voters` 25, `neighbours` and
        `classifier`, each with AUROC, kappa and the like of studies at .5, with `intervals`, where P(abnormal) is the
        share of abnormal neighbours, and the checkpoint's own; and `difference` of the two, as `paired_bootstrap` has
        it.

    Raises:
        CheckpointError: If there is no index, or it is of other weights.
    """
    index = predictor.index
    if index is None:
        raise CheckpointError(f"{predictor.checkpoint} has no index; build one with scripts/build_index.py")
    codes, _ = encode_rows(rows, predictor.model, predictor.processor, progress=progress)
    studies = _read_studies(rows)
    found = {
        name: index.search_codes(codes[study["rows"]], VOTERS, exclude_patient=study["patient_id"])
        for name, study in studies.items()
    }
    return {
        "index": {
            "build": index.record.build,
            "studies": len(set(index.rows["study_id"].to_pylist())),
            "views": len(index),
            "split": index.record.split,
            "metric": index.record.metric,
        },
        "n": len(studies),
        "precision": {
            about: row for about in _ABOUT for row in [_precision(about, studies, found, index)] if row is not None
        },
        "classification": _classification(studies, found, probabilities),
    }


def _read_studies(rows: Dataset) -> dict[str, dict[str, Any]]:
    """Study id -> places of its `rows`, `patient_id`, `label`, `body_part` and `finding` in words."""
    columns = ["study_id", "patient_id", "label", "body_part", *({"finding"} & set(rows.column_names))]
    studies: dict[str, dict[str, Any]] = {}
    for place, values in enumerate(zip(*(rows[name] for name in columns), strict=True)):
        row = dict(zip(columns, values, strict=True))
        study = studies.setdefault(
            row["study_id"],
            {
                "rows": [],
                "patient_id": row["patient_id"],
                "label": LABELS[row["label"]],
                "body_part": None if row["body_part"] is None else BODY_PARTS[row["body_part"]],
                "finding": None,
            },
        )
        study["rows"].append(place)
        study["finding"] = study["finding"] or row.get("finding")
    return studies


def _precision(
    about: str,
    studies: dict[str, dict[str, Any]],
    found: dict[str, list[Neighbour]],
    index: RetrievalIndex,
) -> dict[str, Any] | None:
    """How many of the nearest have the same word for something; None where nobody knows it."""
    known: dict[str, str | None] = {}
    for name, word in zip(index.rows["study_id"].to_pylist(), index.rows[about].to_pylist(), strict=True):
        known[name] = known.get(name) or word
    words = list(known.values())
    asked = {name: study[about] for name, study in studies.items() if study[about] and found[name]}
    if not asked or not any(words):
        return None
    shares = [
        np.mean([known[one.study_id] == word for one in found[name][:PRECISION_AT]]) for name, word in asked.items()
    ]
    low, high = bootstrap_mean(shares, [studies[name]["patient_id"] for name in asked], n_resamples=_N_RESAMPLES)
    return {
        "n": len(asked),
        "at": PRECISION_AT,
        "mean": float(np.mean(shares)),
        "low": low,
        "high": high,
        "chance": float(np.mean([words.count(word) / len(words) for word in asked.values()])),
    }


def _classification(
    studies: dict[str, dict[str, Any]], found: dict[str, list[Neighbour]], probabilities: dict[str, float]
) -> dict[str, Any]:
    """The neighbours' vote beside the checkpoint's own answer, on the same studies."""
    names = [name for name in studies if found[name]]
    labels = np.asarray([LABELS.index(studies[name]["label"]) for name in names])
    patients = [studies[name]["patient_id"] for name in names]
    votes = np.asarray([np.mean([one.label == LABELS[1] for one in found[name]]) for name in names])
    own = np.asarray([probabilities[name] for name in names])
    report: dict[str, Any] = {"voters": VOTERS}
    for who, answers in (("neighbours", votes), ("classifier", own)):
        figures = classification_metrics(labels, answers)
        intervals = bootstrap_confidence_intervals(labels, answers, patients, n_resamples=_N_RESAMPLES)
        report[who] = {
            **{name: figures[name] for name in _FIGURES},
            "intervals": {name: list(intervals[name]) for name in _FIGURES if name in intervals},
        }
    differences = paired_bootstrap(labels, votes, own, patients, n_resamples=_N_RESAMPLES)
    report["difference"] = {name: differences[name] for name in _FIGURES if name in differences}
    return report
