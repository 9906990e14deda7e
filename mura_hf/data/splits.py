"""Columns of the datasets that the package loads.

Cutting a set by patient.
Which patient goes to which split: one cut for every dataset.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from ..models.configuration_mura import BODY_PARTS, LABELS

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
"""Columns of every dataset that the package loads. `body_part` is None where it is none of the seven, or not known."""

BOXES = List(List(Value("int32"), length=4))
"""Where findings show: x0, y0, x1, y1 in pixels of the file, half open."""

SPLITS = ("train", "dev", "calib", "valid")

Row = dict[str, Any]


def make_splits(rows: dict[str, list[Row]], features: Features) -> DatasetDict:
    """Rows by split as a `DatasetDict`, each split in its own order; splits without rows are there, and empty."""
    return DatasetDict({name: make_dataset(rows.get(name, []), features) for name in SPLITS})


def make_dataset(rows: Sequence[Row], features: Features) -> Dataset:
    """Rows as a `Dataset` with the columns of `features`."""
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def split_patients(
    patient_ids: Sequence[str], fractions: dict[str, float], rest: str = "train", seed: int = 0
) -> dict[str, str]:
    """Draws for every patient the one split that all of their studies go to.

    Args:
        patient_ids: Patients, repeats allowed, in any order.
        fractions: Split -> share of the patients; what is left goes to `rest`.
        rest: Name of the split that takes the rest.
        seed: Of the draw. The result depends on the set of patients and the seed, not on their order.

    Returns:
        Patient -> split.

    Raises:
        ValueError: If the shares are negative or leave no patient for `rest`.
    """
    check_fractions(fractions)
    patients = sorted(set(patient_ids))
    shuffled = [patients[index] for index in np.random.default_rng(seed).permutation(len(patients))]
    splits = dict.fromkeys(patients, rest)
    start = 0
    for name, share in fractions.items():
        # A share above 0 takes one patient at least, so that a small set still has something to select on.
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
    """As `split_patients`, with every stratum spread over the splits by its share, as well as patients allow.

    Patients come one by one, those with many views first, else in an order drawn by the seed. Each goes where the sum
    of squared distances to the shares so far, over all strata, grows least: greedy stratification of groups, as
    scikit-learn's StratifiedGroupKFold does it, for any shares instead of equal folds.

    Args:
        patient_ids: The patient of each study.
        strata: What is to be shared out alike, by study, such as "wrist 1".
        sizes: Views of each study.
        fractions: Split -> share of the patients; what is left goes to `rest`.
        rest: Name of the split that takes the rest.
        seed: Of the draw. The result depends on who brings what and the seed, not on the order of studies.

    Returns:
        Patient -> split.

    Raises:
        ValueError: If the shares are negative or leave no patient for `rest`.
    """
    check_fractions(fractions)
    shares = {**fractions, rest: 1 - sum(fractions.values())}
    shares = {name: share for name, share in shares.items() if share > 0}
    columns = {stratum: number for number, stratum in enumerate(sorted(set(strata)))}
    brought: dict[str, np.ndarray] = {}
    for patient, stratum, size in zip(patient_ids, strata, sizes, strict=True):
        # Studies and views of each stratum, and the patient as such.
        counts = brought.setdefault(patient, np.r_[np.zeros(2 * len(columns)), 1.0])
        counts[[columns[stratum], len(columns) + columns[stratum]]] += 1, size
    if not brought:
        return {}
    if len(brought) < len(shares):
        raise ValueError(_too_few(len(brought), fractions, rest))
    rng = np.random.default_rng([seed, 30])
    drawn = dict(zip(sorted(brought), rng.random(len(brought)).tolist(), strict=True))
    views = {patient: float(counts[len(columns) : -1].sum()) for patient, counts in brought.items()}
    line = sorted(brought, key=lambda patient: (-int(np.log2(views[patient])), drawn[patient]))
    names, parts = list(shares), np.array(list(shares.values()))[:, None]
    weights = 1 / (parts * sum(brought.values()))
    ahead = np.zeros(weights.shape)  # of its share, each split in each stratum
    splits: dict[str, str] = {}
    for patient in line:
        counts = brought[patient]
        ahead -= parts * counts
        chosen = int(np.argmin(((2 * ahead + counts) * counts * weights).sum(1)))
        ahead[chosen] += counts
        splits[patient] = names[chosen]
    # A share above 0 takes one patient at least, so that a small set still has something to select on.
    for name in names:
        if name not in splits.values():
            largest = Counter(splits.values()).most_common(1)[0][0]
            splits[next(patient for patient in line if splits[patient] == largest)] = name
    return splits


def check_fractions(fractions: dict[str, float]) -> None:
    """Refuses shares of a whole that are negative or leave nothing over.

    Raises:
        ValueError: If so.
    """
    if any(share < 0 for share in fractions.values()) or sum(fractions.values()) >= 1:
        raise ValueError(f"the shares {fractions} must not be negative and must sum to less than 1")


def _too_few(patients: int, fractions: dict[str, float], rest: str) -> str:
    return (
        f"{patients} patients cannot be cut into {', '.join(fractions)} and {rest} with the shares {fractions}; give "
        "more patients or smaller shares"
    )


def split_digest(members: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of who is where, from (split, study id) pairs in any order; equal digests mean the same splits."""
    lines = sorted({f"{split}\t{study}\n" for split, study in members})
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Cut:
    """How a set is cut by patient.

    Attributes:
        fractions: Split -> share of the patients; the rest is `train`.
        seed: Of the draw.
        fold: Cross-validation: what the other splits leave is cut into `n_folds`, and this one, from 0 on, is `dev`.
        n_folds: How many folds.
        stratified: Whether shares of body parts and labels are kept alike.

    Raises:
        ValueError: If a share is negative, they leave nothing for train, or there is no such fold.
    """

    fractions: dict[str, float]
    seed: int = 0
    fold: int | None = None
    n_folds: int = 5
    stratified: bool = True

    def __post_init__(self) -> None:
        check_fractions(self.fractions)
        if self.n_folds < 2:
            raise ValueError(f"n_folds is {self.n_folds}: there must be two at least")
        if self.fold is not None and not 0 <= self.fold < self.n_folds:
            raise ValueError(f"fold is {self.fold}: with {self.n_folds} folds it must be 0 to {self.n_folds - 1}")


def cut_rows(rows: Iterable[Row], cut: Cut) -> dict[str, str]:
    """Patient -> split; every row of a patient goes there.

    Raises:
        ValueError: If there are too few patients.
    """
    views: dict[str, list[Row]] = {}
    for row in rows:
        views.setdefault(row["study_id"], []).append(row)
    patients = [study[0]["patient_id"] for study in views.values()]
    strata = [f"{study[0].get('region', study[0]['body_part'])} {study[0]['label']}" for study in views.values()]
    shares = cut.fractions
    if cut.fold is not None:
        kept = {name: share for name, share in shares.items() if name != "dev"}
        left = 1 - sum(kept.values())
        shares = kept | {f"fold {number}": left / cut.n_folds for number in range(1, cut.n_folds)}
    if cut.stratified:
        sizes = [len(study) for study in views.values()]
        places = split_patients_evenly(patients, strata, sizes, shares, rest="train", seed=cut.seed)
    else:
        places = split_patients(patients, shares, rest="train", seed=cut.seed)
    if cut.fold is None:
        return places
    # "train", what no share names, serves as fold 0 here.
    folds = {"train": 0} | {f"fold {number}": number for number in range(1, cut.n_folds)}
    return {
        patient: place if place not in folds else "dev" if folds[place] == cut.fold else "train"
        for patient, place in places.items()
    }
