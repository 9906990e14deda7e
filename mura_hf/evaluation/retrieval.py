"""Builds a checkpoint's retrieval index, and measures whether the studies that it finds are similar."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.views import group_studies
from ..errors import CheckpointError
from ..inference import StudyPredictor
from ..metrics import GroupReport, mean_with_interval
from ..models import LABELS
from ..retrieval import FOLDER, Neighbour, RetrievalIndex, encode_rows
from .splits import body_part_of, load_splits

PRECISION_AT = 5
"""Number of neighbours for precision."""

VOTERS = 25
"""Number of neighbours whose labels give a probability."""

_PROPERTIES = ("body_part", "label", "finding")
_FIGURES = ("auroc", "kappa", "sensitivity", "specificity")


def index_checkpoint(
    folder: str | Path,
    data_dir: str | Path,
    split: str = "train",
    *,
    cpu: bool = False,
    **options: Any,
) -> RetrievalIndex:
    """Builds the index of a checkpoint and saves it in its `retrieval/` folder.

    Args:
        folder: The checkpoint.
        data_dir: The data that it was trained on.
        split: The split to index.
        cpu: Whether to stay on the CPU.
        **options: Options of `RetrievalIndex.build`: `metric`, `half`, `factory`, `parameters`, `thumbnail_side`,
            `batch_size` and `progress`.

    Raises:
        CheckpointError: If there is no such checkpoint, or it has no codes.
        DatasetError: If the data are not those of training, or cannot be read.
        ValueError: If an option is invalid, or there are no studies.
    """
    folder = Path(folder)
    datasets, data = load_splits(folder, data_dir, split)
    predictor = StudyPredictor.from_pretrained(folder, device="cpu" if cpu else None, runtime="torch")
    index = RetrievalIndex.build(
        datasets[split], predictor.model, predictor.processor, data=data, split=split, **options
    )
    index.save(folder / FOLDER)
    return index


def measure_retrieval(predictor: StudyPredictor, rows: Dataset, probabilities: dict[str, float]) -> dict[str, Any]:
    """Searches a checkpoint's index for each study of a split, excluding studies of the same patient.

    Args:
        predictor: A checkpoint with an index.
        rows: Studies of patients that the checkpoint has not seen.
        probabilities: Study id -> the checkpoint's own calibrated P(abnormal).

    Returns:
        `index`: its `build`, `studies`, `views`, `split` and `metric`. `n` studies. `precision`: for `body_part`,
        `label` and `finding` (of abnormal studies), if index and rows have these: `n`, `at` 5, the `mean` share of
        neighbours with the same value, `low` and `high` (95 % interval over patients), and `chance`,
        its share of the index. `classification`: `voters` 25; metrics at a threshold of .5 with `intervals`, where
        P(abnormal) is the share of abnormal `neighbours`, and those of the checkpoint's own `classifier`.

    Raises:
        CheckpointError: If there is no index, or it belongs to other weights.
    """
    index = predictor.index
    if index is None:
        raise CheckpointError(f"{predictor.checkpoint} has no index; build one with scripts/build_index.py")
    codes, _ = encode_rows(rows, predictor.model, predictor.processor)
    studies = _read_studies(rows)
    neighbours = {
        name: index.search_codes(codes[study["rows"]], VOTERS, exclude_patient=study["patient_id"])
        for name, study in studies.items()
    }
    precision = {name: _precision(name, studies, neighbours, index) for name in _PROPERTIES}
    return {
        "index": {
            "build": index.record.build,
            "studies": len(set(index.rows["study_id"].to_pylist())),
            "views": len(index),
            "split": index.record.split,
            "metric": index.record.metric,
        },
        "n": len(studies),
        "precision": {name: row for name, row in precision.items() if row is not None},
        "classification": _classification(studies, neighbours, probabilities),
    }


def _read_studies(rows: Dataset) -> dict[str, dict[str, Any]]:
    """Study id -> its row indices `rows`, `patient_id`, and `label`, `body_part` and `finding` as words."""
    table = rows.remove_columns("image").to_list()
    return {
        study: {
            "rows": members,
            "patient_id": table[members[0]]["patient_id"],
            "label": LABELS[table[members[0]]["label"]],
            "body_part": body_part_of(table[members[0]]),
            "finding": next((found for row in members if (found := table[row].get("finding"))), None),
        }
        for study, members in group_studies(rows["study_id"]).items()
    }


def _precision(
    name: str, studies: dict[str, dict[str, Any]], neighbours: dict[str, list[Neighbour]], index: RetrievalIndex
) -> dict[str, Any] | None:
    """Share of the nearest studies with the same value of a property; None if it is unknown."""
    known: dict[str, str | None] = {}
    for study, value in zip(index.rows["study_id"].to_pylist(), index.rows[name].to_pylist(), strict=True):
        known[study] = known.get(study) or value
    values = list(known.values())
    asked = {study: row[name] for study, row in studies.items() if row[name] and neighbours[study]}
    if not asked or not any(values):
        return None
    shares = [
        np.mean([known[one.study_id] == value for one in neighbours[study][:PRECISION_AT]])
        for study, value in asked.items()
    ]
    chances = [values.count(value) / len(values) for value in asked.values()]
    mean = mean_with_interval(shares, [studies[study]["patient_id"] for study in asked], least=0)
    return {"n": len(asked), "at": PRECISION_AT, **mean, "chance": float(np.mean(chances))}


def _classification(
    studies: dict[str, dict[str, Any]], neighbours: dict[str, list[Neighbour]], probabilities: dict[str, float]
) -> dict[str, Any]:
    """Metrics of the neighbours' votes and of the checkpoint's own probabilities, on the same studies."""
    names = [name for name in studies if neighbours[name]]
    labels = np.asarray([LABELS.index(studies[name]["label"]) for name in names])
    patients = [studies[name]["patient_id"] for name in names]
    votes = np.asarray([np.mean([one.label == LABELS[1] for one in neighbours[name]]) for name in names])
    own = np.asarray([probabilities[name] for name in names])
    report: dict[str, Any] = {"voters": VOTERS}
    for name, values in (("neighbours", votes), ("classifier", own)):
        group = GroupReport.measure(labels, values, patients)
        intervals = {figure: list(group.intervals[figure]) for figure in _FIGURES if figure in group.intervals}
        report[name] = {**{figure: group.figures[figure] for figure in _FIGURES}, "intervals": intervals}
    return report
