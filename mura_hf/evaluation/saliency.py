"""Do the heatmaps of a study's projections point at the same anatomy?

Are a checkpoint's heatmaps right? By boxes, by findings that are added, by the answer, and by what was learned.
"""

from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np
from datasets import Dataset

from ..inference import StudyPredictor
from ..metrics import bootstrap_mean
from . import insertion_deletion as erasing
from . import randomization
from .insertion_deletion import measure_erasing
from .pointing_game import N_TWINS, Pointed, can_point, measure_following, point_at_findings, pointing_game
from .prediction_cache import KeptAnswers
from .randomization import measure_randomization


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


def look_at_heatmaps(answers: KeptAnswers, predictor: StudyPredictor, *, phantoms: bool) -> dict[str, Any]:
    """Measures the heatmaps of a checkpoint.

    Args:
        answers: Checkpoint and split.
        predictor: The checkpoint.
        phantoms: Whether to make phantoms anew, with and without a finding.

    Returns:
        `explanations`, see `measure_randomization`; where there are heatmaps, `erasing`, see `measure_erasing`; where
        the rows have boxes besides, `pointing`, see `pointing_game`, and, where studies have several views with one,
        `projections`, see `agree_between_projections`; where phantoms are asked for, `following`, see
        `measure_following`.
    """
    rows = answers.rows
    looked = {"views": randomization.N_VIEWS, "seeds": randomization.N_SEEDS, "steps": randomization.STEPS}
    report = {
        "explanations": answers.record("randomization", looked, lambda: measure_randomization(predictor, rows)),
    }
    if "none" not in report["explanations"]:
        erased = {"views": erasing.N_VIEWS, "steps": erasing.STEPS}
        report["erasing"] = answers.record("erasing", erased, lambda: measure_erasing(predictor, rows))
        if can_point(predictor, rows):
            report |= answers.record("pointing", {}, lambda: _point(predictor, rows))
        if phantoms:
            report["following"] = answers.record("following", {"n": N_TWINS}, lambda: measure_following(predictor))
    return report


def _point(predictor: StudyPredictor, rows: Dataset) -> dict[str, Any]:
    pointed = point_at_findings(predictor, rows)
    agreement = agree_between_projections(pointed)
    return {"pointing": pointing_game(pointed), **({} if agreement is None else {"projections": agreement})}
