"""Do the heatmaps of a study's projections point at the same anatomy?"""

from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np

from ..evaluation import bootstrap_mean
from .pointing import Pointed


def agree_between_projections(pointed: Pointed) -> dict[str, Any] | None:
    """How far two projections of one study point at the same finding.

    Pixels of two projections do not correspond, but the boxes of one finding in both do: they are the same anatomy.
    So two heatmaps point at the same place where both of their hottest pixels lie in their own views' boxes. Each
    pair of a study's views that show the finding counts.

    Args:
        pointed: From `point_at_findings`.

    Returns:
        `n` pairs; `both`, the share in which both point at the finding, with `low` and `high` (95 % interval by a
        bootstrap over patients), and `expected`, that share if the views of a study had nothing to do with each
        other, from the share of hits; `one` and `neither`, the other shares; `kappa`, by how much more than by chance
        they agree on being hits or misses (None where all are the same). None where no study has two such views.
    """
    studies = defaultdict(list)
    for number, study in enumerate(pointed.rows["study_id"]):
        studies[study].append(number)
    pairs = np.asarray([pair for members in studies.values() for pair in combinations(members, 2)], int)
    if not len(pairs):
        return None
    hits = pointed.hits[pairs]  # [pairs, 2]
    both, neither = hits.all(1), ~hits.any(1)
    rate = hits.mean()
    agreement, by_chance = float((both | neither).mean()), float(rate**2 + (1 - rate) ** 2)
    low, high = bootstrap_mean(both, np.asarray(pointed.rows["patient_id"])[pairs[:, 0]])
    return {
        "n": len(pairs),
        "both": float(both.mean()),
        "low": low,
        "high": high,
        "expected": float(rate**2),
        "one": 1 - agreement,
        "neither": float(neither.mean()),
        "kappa": (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else None,
    }
