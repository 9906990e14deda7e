"""Cutting a set by patient."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


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
