"""Whether the views that were given as one study can be one."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from ..models import BODY_PARTS
from ..radiographs import Radiograph

Key = TypeVar("Key", str, bytes)

SURE = 0.9
"""A part that is found in a view counts where its probability is at least so high."""


def find_conflicts(
    names: Sequence[str], radiographs: Sequence[Radiograph], parts_found: np.ndarray | None = None
) -> list[str]:
    """Sentences about views that are no study: the same picture twice, of different patients, sides or parts.

    Args:
        names: Of the V views.
        radiographs: The views.
        parts_found: Probability of each part in each view, `[V, 7]`; None where the model does not tell. What a file
            says of its part counts before what was found.
    """
    told = []
    for places in _groups([_content(radiograph) for radiograph in radiographs]).values():
        if len(places) > 1:
            told.append(f"{_listed(names, places)} show the same picture, which counts as often as it was given.")
    patients = _groups([radiograph.patient_mark for radiograph in radiographs])
    if len(patients) > 1:
        told.append(
            f"These views are of {len(patients)} patients, by what the files say: {_divided(names, patients)}. Give "
            "the views of one study."
        )
    sides = _groups([radiograph.side for radiograph in radiographs])
    if len(sides) > 1:
        told.append(
            "These views are of both sides, by what the files say: "
            + "; ".join(f"{side}: {_listed(names, places)}" for side, places in sorted(sides.items()))
            + ". A study is of one side."
        )
    parts = _groups([_part(number, radiograph, parts_found) for number, radiograph in enumerate(radiographs)])
    if len(parts) > 1:
        told.append(
            "These views seem to show different parts of the body: "
            + "; ".join(f"{part}: {_listed(names, places)}" for part, places in sorted(parts.items()))
            + ". A study is of one part."
        )
    return told


def _part(number: int, radiograph: Radiograph, found: np.ndarray | None) -> str | None:
    if radiograph.body_part is not None or found is None:
        return radiograph.body_part
    best = int(found[number].argmax())
    return BODY_PARTS[best] if found[number, best] >= SURE else None


def _content(radiograph: Radiograph) -> bytes:
    levels = radiograph.to_uint8()
    return hashlib.blake2b(repr(levels.shape).encode() + levels.tobytes(), digest_size=16).digest()


def _groups(keys: Sequence[Key | None]) -> dict[Key, list[int]]:
    """Places by key, without those whose key is not known."""
    groups: dict[Key, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        if key is not None:
            groups[key].append(place)
    return groups


def _listed(names: Sequence[str], places: Sequence[int]) -> str:
    """Names of some views; with their numbers where a name occurs twice."""
    often = Counter(names)
    told = [f"{names[place]} (view {place + 1})" if often[names[place]] > 1 else names[place] for place in places]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def _divided(names: Sequence[str], groups: dict[Key, list[int]]) -> str:
    return "; ".join(_listed(names, places) for places in groups.values())
