"""Are a checkpoint's heatmaps right? By boxes, by findings that are added, by the answer, and by what was learned."""

from typing import Any

from datasets import Dataset

from ..inference import StudyPredictor
from . import erasing, randomization
from .erasing import measure_erasing
from .following import N_TWINS, measure_following
from .kept_answers import KeptAnswers
from .pointing import can_point, point_at_findings, pointing_game
from .projections import agree_between_projections
from .randomization import measure_randomization


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
