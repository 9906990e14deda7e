"""HTML of a result: the answer, the measured performance of the operating point, and similar cases."""

import base64
from collections.abc import Sequence
from typing import Any

from ..errors import CheckpointError
from ..inference import OOD_WARNING, StudyPrediction, StudyPredictor
from ..inference.measured_performance import OVERALL, OperatingPointPerformance
from ..retrieval import Neighbour, RetrievalIndex
from .templates import note_html, operating_point_text, render

N_SIMILAR = 5

_VERDICTS = {
    "suspected": ("▲", "Abnormal: flagged"),
    "uncertain": ("◐", "Uncertain"),
    "low": ("○", "Nothing flagged"),
}
_POOLING = {
    "mean": "Mean of {}",
    "max": "Maximum of {}",
    "noisy_or": "Noisy-or of {}",
    "gated_attention": "{}, weighted by learned attention",
    "ensemble": "Weighted mean of several models over {}",
    "specialized": "Model of this body part over {}",
}


def is_withheld(study: StudyPrediction | None, show_anyway: bool = False) -> bool:
    """Whether the answer is not shown: the study is out of distribution, and the visitor has not insisted."""
    return study is not None and study.in_distribution is False and not show_anyway


def answer_html(study: StudyPrediction | None, problems: Sequence[str] = (), *, show_anyway: bool = False) -> str:
    """The answer for a study, with its warnings and a sentence about each file that could not be read."""
    if study is None:
        return render("answer", study=None, problems=problems, warnings=())
    withheld = is_withheld(study, show_anyway)
    sign, title = _VERDICTS[study.probability_band]
    number = f"{len(study.views)} view" + "s" * (len(study.views) != 1)
    share, types = study.unusual_percentile or 0.0, study.finding_probabilities
    return render(
        "answer",
        study=study,
        problems=problems,
        withheld=withheld,
        band=study.probability_band,
        warnings=[warning for warning in study.warnings if not (withheld and warning == OOD_WARNING)],
        sign=sign,
        title=title,
        pooled=_POOLING[study.pooling].format(number),
        finding=max(types, key=types.__getitem__) if types and study.label == "abnormal" else None,
        than="all" if share == 100 else f"{int(share)} % of the",  # not rounded up to all
    )


def operating_point_choices(predictor: StudyPredictor) -> list[tuple[str, str]]:
    """Label and name of each operating point of a checkpoint, lowest threshold first."""
    points = sorted(predictor.model.config.operating_points.items(), key=lambda point: point[1])
    return [(f"{operating_point_text(name)}: above {value:.2f}", name) for name, value in points]


def known_point(predictor: StudyPredictor, name: str | None) -> str | None:
    """The name of an operating point; None, which means the default, if the checkpoint does not have it."""
    return name if name in predictor.model.config.operating_points else None


def performance_html(performance: OperatingPointPerformance | None, prevalence: float) -> str:
    """The measured performance of an operating point, as counts and as predictive values at a prevalence in (0, 1)."""
    return render("performance", performance=performance, prevalence=prevalence, overall=OVERALL)


def similar_html(predictor: StudyPredictor, study: StudyPrediction, *, same_part: bool) -> str:
    """The studies in the index of a checkpoint that look most like a study, or a sentence if there are none."""
    if same_part and study.body_part is None:
        return note_html("This checkpoint does not predict the body part; choose one, or search the whole database.")
    try:
        index = predictor.index
        if index is None:
            return note_html(f"{predictor.checkpoint} has no database of studies, so there are no similar cases.")
        found = predictor.similar(study, N_SIMILAR, study.body_part if same_part else None)
    except (CheckpointError, ValueError) as error:
        return note_html(str(error))
    if not found:
        return note_html("The database has no study of this body part.")
    source = (index.record.data or {}).get("name")
    cases = similar_cases(index, found)
    credit = next((case["credit"] for case in cases if case["credit"]), None)
    return render(
        "similar", cases=cases, n_views=len(index), source=source, synthetic=index.is_synthetic, credit=credit
    )


def similar_cases(index: RetrievalIndex, found: Sequence[Neighbour]) -> list[dict[str, Any]]:
    """Fields of similar studies for the page and the API.

    `thumbnail` is a data URL if the pictures may be shared, and `credit` whom to credit for it; else both are None.
    The patient is left out unless it is a phantom.
    """
    cases = []
    for one in found:
        case: dict[str, Any] = {**vars(one), "thumbnail": None, "credit": None}
        if one.thumbnail is not None and index.record.may_be_shared:
            case["thumbnail"] = f"data:image/webp;base64,{base64.b64encode(one.thumbnail).decode()}"
            case["credit"] = index.record.picture_credit
        hidden = {"row"} if index.is_synthetic else {"row", "patient_id"}
        cases.append({name: value for name, value in case.items() if name not in hidden})
    return cases
