"""Cutting a set by patient."""

import hashlib
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
        raise ValueError(
            f"{len(patients)} patients cannot be cut into {', '.join(fractions)} and {rest} with the shares "
            f"{fractions}; give more patients or smaller shares"
        )
    return splits


def check_fractions(fractions: dict[str, float]) -> None:
    """Refuses shares of a whole that are negative or leave nothing over.

    Raises:
        ValueError: If so.
    """
    if any(share < 0 for share in fractions.values()) or sum(fractions.values()) >= 1:
        raise ValueError(f"the shares {fractions} must not be negative and must sum to less than 1")


def split_digest(members: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of who is where, from (split, study id) pairs in any order; equal digests mean the same splits."""
    lines = sorted({f"{split}\t{study}\n" for split, study in members})
    return hashlib.sha256("".join(lines).encode()).hexdigest()
