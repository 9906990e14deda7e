"""Which patient goes to which split: one cut for every dataset."""

from collections.abc import Iterable
from dataclasses import dataclass

from .columns import Row
from .splits import check_fractions, split_patients, split_patients_evenly


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
