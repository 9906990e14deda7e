"""Columns of the datasets, and how patients are assigned to splits. No patient is ever in two splits."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from ..common import BODY_PARTS
from ..models.configuration_mura import LABELS

FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=list(LABELS)),
        "body_part": ClassLabel(names=list(BODY_PARTS)),
        "patient_id": Value("string"),
        "study_id": Value("string"),
        "view": Value("int32"),
    }
)
"""Columns of every dataset. `body_part` is None if it is unknown or none of the seven."""

BOXES = List(List(Value("int32"), length=4))
"""Bounding boxes of findings: x0, y0, x1, y1 in pixels of the file, with x1 and y1 exclusive."""

SPLITS = ("train", "dev", "calib", "valid")

Row = dict[str, Any]


def make_splits(rows: dict[str, list[Row]], features: Features) -> DatasetDict:
    """Builds a `DatasetDict` with all of `SPLITS`; splits without rows are empty."""
    return DatasetDict({name: make_dataset(rows.get(name, []), features) for name in SPLITS})


def make_dataset(rows: Sequence[Row], features: Features) -> Dataset:
    """Builds a `Dataset` with the columns of `features`; other keys of the rows are ignored."""
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


@dataclass(frozen=True)
class SplitOptions:
    """How patients are assigned to splits.

    Attributes:
        fractions: Split -> fraction of the patients. The rest is `train`.
        seed: Seed of the assignment.
        fold: Cross-validation: the patients outside the other splits are divided into `n_folds`, and this one, from 0
            on, becomes `dev`. Its fraction is ignored then.
        n_folds: Number of folds.
        stratified: Whether every split gets the same shares of body parts and labels, as far as patients allow.

    Raises:
        ValueError: If a fraction is negative, the fractions sum to 1 or more, or there is no such fold.
    """

    fractions: dict[str, float]
    seed: int = 0
    fold: int | None = None
    n_folds: int = 5
    stratified: bool = True

    def __post_init__(self) -> None:
        _check_fractions(self.fractions)
        if self.n_folds < 2:
            raise ValueError(f"n_folds is {self.n_folds}, but must be at least 2")
        if self.fold is not None and not 0 <= self.fold < self.n_folds:
            raise ValueError(f"fold is {self.fold}, but with {self.n_folds} folds must be 0 to {self.n_folds - 1}")


def assign_patients(rows: Iterable[Row], options: SplitOptions) -> dict[str, str]:
    """Assigns every patient to a split.

    Args:
        rows: Rows with `patient_id`, `study_id`, `label` and `region` or `body_part`.
        options: How to split.

    Returns:
        Patient -> split.

    Raises:
        ValueError: If there are too few patients.
    """
    studies: dict[str, list[Row]] = {}
    for row in rows:
        studies.setdefault(row["study_id"], []).append(row)
    first_views = [views[0] for views in studies.values()]
    patients = [row["patient_id"] for row in first_views]
    fractions = options.fractions
    if options.fold is not None:
        fractions = {name: share for name, share in fractions.items() if name != "dev"}
        share = (1 - sum(fractions.values())) / options.n_folds
        fractions = fractions | {f"fold {number}": share for number in range(1, options.n_folds)}
    if options.stratified:
        strata = [f"{row.get('region', row['body_part'])} {row['label']}" for row in first_views]
        sizes = [len(views) for views in studies.values()]
        splits = split_patients_evenly(patients, strata, sizes, fractions, seed=options.seed)
    else:
        splits = split_patients(patients, fractions, seed=options.seed)
    if options.fold is None:
        return splits
    # The rest, "train", serves as fold 0.
    folds = {"train": 0} | {f"fold {number}": number for number in range(1, options.n_folds)}
    return {
        patient: split if split not in folds else "dev" if folds[split] == options.fold else "train"
        for patient, split in splits.items()
    }


def split_patients(
    patient_ids: Sequence[str], fractions: dict[str, float], rest: str = "train", seed: int = 0
) -> dict[str, str]:
    """Assigns patients to splits at random.

    Args:
        patient_ids: Patients in any order, with or without repetitions.
        fractions: Split -> fraction of the patients.
        rest: Split of the remaining patients.
        seed: Seed. The result depends on the set of patients and the seed only.

    Returns:
        Patient -> split.

    Raises:
        ValueError: If the fractions are invalid or leave no patient for `rest`.
    """
    _check_fractions(fractions)
    patients = sorted(set(patient_ids))
    shuffled = [patients[index] for index in np.random.default_rng(seed).permutation(len(patients))]
    splits = dict.fromkeys(patients, rest)
    start = 0
    for name, share in fractions.items():
        # A positive fraction gets at least one patient, so that a small dataset still has something to select on.
        count = max(round(share * len(patients)), int(share > 0 and len(patients) > len(fractions)))
        splits.update(dict.fromkeys(shuffled[start : start + count], name))
        start += count
    if patients and start >= len(patients):
        raise ValueError(_too_few(len(patients), fractions, rest))
    return splits


def split_patients_evenly(
    patient_ids: Sequence[str],
    strata: Sequence[str],
    sizes: Sequence[int],
    fractions: dict[str, float],
    rest: str = "train",
    seed: int = 0,
) -> dict[str, str]:
    """Assigns patients to splits so that every stratum is spread over the splits by their fractions.

    This is greedy stratification of groups, like scikit-learn's `StratifiedGroupKFold`, but for arbitrary fractions.
    Patients are taken one by one, those with many views first, otherwise in random order. Each goes to the split where
    the sum of squared deviations from the fractions, over all strata, grows least.

    Args:
        patient_ids: Patient of each study.
        strata: Stratum of each study, such as "wrist 1".
        sizes: Number of views of each study.
        fractions: Split -> fraction of the patients.
        rest: Split of the remaining patients.
        seed: Seed. The result depends on the studies of the patients and the seed, not on their order.

    Returns:
        Patient -> split.

    Raises:
        ValueError: If the fractions are invalid or there are fewer patients than splits.
    """
    _check_fractions(fractions)
    shares = {**fractions, rest: 1 - sum(fractions.values())}
    shares = {name: share for name, share in shares.items() if share > 0}
    columns = {stratum: number for number, stratum in enumerate(sorted(set(strata)))}
    counts_of: dict[str, np.ndarray] = {}  # studies and views of each stratum, and 1 for the patient
    for patient, stratum, size in zip(patient_ids, strata, sizes, strict=True):
        counts = counts_of.setdefault(patient, np.r_[np.zeros(2 * len(columns)), 1.0])
        counts[[columns[stratum], len(columns) + columns[stratum]]] += 1, size
    if not counts_of:
        return {}
    if len(counts_of) < len(shares):
        raise ValueError(_too_few(len(counts_of), fractions, rest))
    rng = np.random.default_rng([seed, 30])
    drawn = dict(zip(sorted(counts_of), rng.random(len(counts_of)).tolist(), strict=True))
    views = {patient: float(counts[len(columns) : -1].sum()) for patient, counts in counts_of.items()}
    order = sorted(counts_of, key=lambda patient: (-int(np.log2(views[patient])), drawn[patient]))
    names, parts = list(shares), np.array(list(shares.values()))[:, None]
    weights = 1 / (parts * sum(counts_of.values()))
    excess = np.zeros(weights.shape)  # of each split in each stratum, compared to its fraction
    splits: dict[str, str] = {}
    for patient in order:
        counts = counts_of[patient]
        excess -= parts * counts
        chosen = int(np.argmin(((2 * excess + counts) * counts * weights).sum(1)))
        excess[chosen] += counts
        splits[patient] = names[chosen]
    # A positive fraction gets at least one patient, so that a small dataset still has something to select on.
    for name in names:
        if name not in splits.values():
            largest = Counter(splits.values()).most_common(1)[0][0]
            splits[next(patient for patient in order if splits[patient] == largest)] = name
    return splits


def split_digest(members: Iterable[tuple[str, str]]) -> str:
    """Returns the SHA-256 of (split, study id) pairs in any order. Equal digests mean equal splits."""
    lines = sorted({f"{split}\t{study}\n" for split, study in members})
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_fractions(fractions: dict[str, float]) -> None:
    if any(share < 0 for share in fractions.values()) or sum(fractions.values()) >= 1:
        raise ValueError(f"the fractions {fractions} must not be negative and must sum to less than 1")


def _too_few(n_patients: int, fractions: dict[str, float], rest: str) -> str:
    return (
        f"{n_patients} patients cannot be split into {', '.join(fractions)} and {rest} with the fractions "
        f"{fractions}; give more patients or smaller fractions"
    )
