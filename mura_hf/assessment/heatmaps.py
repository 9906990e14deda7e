"""Are a checkpoint's heatmaps right? All that is measured view by view, through the predictor."""

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
from .twins import measure_twins


def look_at_heatmaps(answers: KeptAnswers, twins: int) -> dict[str, Any]:
    """Measures the heatmaps of a checkpoint, and what twins do to its answers.

    Args:
        answers: Checkpoint and split.
        twins: Patients to render; see `measure_twins`. 0 leaves out whatever needs phantoms made anew.

    Returns:
        `explanations`, see `measure_randomization`; where there are heatmaps, `erasing`, see `measure_erasing`; where
        the rows have boxes besides, `pointing`, see `pointing_game`, and, where studies have several views with one,
        `projections`, see `agree_between_projections`; where twins are asked for, `twins`, and, where there are
        heatmaps, `following`, see `measure_following`.
    """
    predictor = StudyPredictor.from_pretrained(answers.checkpoint, device=answers.accelerator.device)
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
        if twins:
            report["following"] = answers.record("following", {"n": N_TWINS}, lambda: measure_following(predictor))
    if twins:
        report["twins"] = answers.record("twins", {"patients": twins}, lambda: measure_twins(predictor, twins))
    return report


def _point(predictor: StudyPredictor, rows: Dataset) -> dict[str, Any]:
    pointed = point_at_findings(predictor, rows)
    agreement = agree_between_projections(pointed)
    return {"pointing": pointing_game(pointed), **({} if agreement is None else {"projections": agreement})}
