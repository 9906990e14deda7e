"""HTML of a result: the answer, how sure it is, the performance of the operating point, and similar cases."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..inference import OOD_WARNING, StudyPrediction, StudyPredictor
from ..inference.measured_performance import OVERALL, OperatingPointPerformance
from ..inference.prediction import PHANTOM_WARNING
from ..radiographs import Radiograph
from ..retrieval import Neighbour, RetrievalIndex
from .examples import ExampleStudy
from .templates import BANDS, OPTIONS, note_html, operating_point_text, render, with_article

N_SIMILAR = 6  # fills rows of two, three and six

_LIGHT = 0.55  # median of the outermost pixels from which a border is light; films have a dark one
_CONTRADICTED = 0.9  # probability of another body part from which the page asks whether the given one is right
_FOREIGN = "this does not look like an upper-limb X-ray"
_UNLIKE = "this is unlike the X-rays that the model was trained on"
_SAME = 0.05  # of the distance of the farthest case shown, from which the nearest one is probably the same picture
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


def answer_html(
    study: StudyPrediction | None,
    problems: Sequence[str] = (),
    *,
    radiographs: Sequence[Radiograph] = (),
    example: ExampleStudy | None = None,
    show_anyway: bool = False,
    has_box: bool = True,
) -> str:
    """The answer for a study, with its warnings and a sentence about each file that was left out.

    Args:
        study: The prediction; None without a readable view.
        problems: A sentence about each file that was left out.
        radiographs: The views, to say what is unusual about them.
        example: The example that is answered; the answer is then compared with what is known about it.
        show_anyway: Whether the visitor wants to see an answer that would be withheld.
        has_box: Whether boxes are drawn beside it.
    """
    if study is None:
        return render("answer", study=None, problems=problems, warnings=())
    withheld, band = is_withheld(study, show_anyway), study.probability_band
    warnings = [warning for warning in study.warnings if warning != OOD_WARNING]  # the answer says so itself
    knows_phantoms_only, noticed = PHANTOM_WARNING in study.warnings, _notice(study, radiographs)
    reason = "this model knows synthetic pictures only" if knows_phantoms_only else _FOREIGN if noticed else _UNLIKE
    return render(
        "answer",
        study=study,
        problems=problems,
        withheld=withheld,
        unusual=study.in_distribution is False,
        has_box=has_box,
        knows_phantoms_only=knows_phantoms_only,
        reason=reason,
        measured=study.band_performance,
        noticed=noticed,
        band=band,
        warnings=[*_contradictions(study), *warnings],
        sign=BANDS[band][0],
        title=study.describe_band(band),
        a_finding=with_article(study.finding),
        zones=_zones(study.band_limits),
        mark=min(max(100 * study.probability, 0.5), 99.5),
        truth=None if example is None else _compare(study, example),
    )


def details_html(study: StudyPrediction, *, with_views: bool = True) -> str:
    """How sure the answer for a study is: what its band achieved, how it follows, and a table of the views."""
    number = f"{len(study.views)} views" if len(study.views) > 1 else "1 view"
    mean = sum(view.weight * view.probability for view in study.views) if study.pooling == "mean" else None
    share, types = study.unusual_percentile or 0.0, study.finding_probabilities
    return render(
        "details",
        study=study,
        views=study.views if with_views else (),
        mean=mean if study.calibrated and len(study.views) > 1 else None,
        measured=None if study.in_distribution is False else study.band_performance,
        a_finding=with_article(study.finding) if study.finding == "fracture" else "a finding",
        pooled=_POOLING[study.pooling].format(number),
        finding=max(types, key=types.__getitem__) if types and study.label == "abnormal" else None,
        than="all" if share == 100 else f"{int(share)} % of the",  # not rounded up to all
    )


def _zones(limits: tuple[float, float]) -> list[tuple[str, str, float]]:
    """Band, text with its limit, and width in percent of the zones of the bar, which is a scale from 0 to 1."""
    lower, upper = limits
    zones = (
        ("low", f"{BANDS['low'][1]} ≤ {lower:.2f}", lower),
        ("uncertain", BANDS["uncertain"][1], upper - lower),
        ("suspected", f"{BANDS['suspected'][1]} > {upper:.2f}", 1 - upper),
    )
    return [(band, text, 100 * width) for band, text, width in zones if width or band != "uncertain"]


def _notice(study: StudyPrediction, radiographs: Sequence[Radiograph]) -> list[str]:
    """What is unusual about the unusual views, as far as simple properties say so."""
    pairs = zip(study.views, radiographs, strict=False)
    views = [radiograph for view, radiograph in pairs if view.in_distribution is False]
    found = []
    if any(view.is_coloured for view in views):
        found.append("it is a colour picture")
    if any(_border(view.pixels) > _LIGHT for view in views):
        found.append("its border is light, while that of an X-ray is dark")
    if study.scope_note:
        found.append(f"it seems to show another body part ({study.region_words})")
    return found


def _border(pixels: np.ndarray) -> float:
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return float(np.median(np.concatenate(edges)))


def _contradictions(study: StudyPrediction) -> list[str]:
    """Asks back if the visitor gave another body part than the picture shows."""
    parts = study.body_part_probabilities
    best = max(parts, key=parts.__getitem__, default=None)
    if not study.body_part_given or best in (None, study.body_part) or parts[best] < _CONTRADICTED:
        return []
    given = study.body_part
    return [
        f"You chose {given}, but the picture looks like {with_article(best)}. Is {given} right? If not, choose {best} "
        f"under “{OPTIONS}”."
    ]


def _compare(study: StudyPrediction, example: ExampleStudy) -> dict[str, str]:
    """A tag and a sentence that compare the answer for an example with what is known about it."""
    is_abnormal, band = example.label == "abnormal", study.probability_band
    if example.source is None:
        known = f"This synthetic picture was drawn with {(example.finding or 'no finding').replace('_', ' ')}."
    else:
        known = f"Two radiologists saw {'a fracture' if is_abnormal else 'no fracture'} in this X-ray."
        if is_abnormal and band != "low":
            known += " Its place was not compared."
    tag = "Not decided" if band == "uncertain" else "Correct"
    if is_abnormal and band == "low":
        tag = "Miss"
    elif not is_abnormal and band == "suspected":
        tag = "False alarm"
    return {"tag": f"Example. {tag}:", "sentence": known}


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
    n_known = sum(one.distance < _SAME * found[-1].distance for one in found)
    credit = next((case["credit"] for case in cases if case["credit"]), None)
    return render(
        "similar",
        cases=cases,
        n_views=len(index),
        source=source,
        synthetic=index.is_synthetic,
        credit=credit,
        n_known=n_known,
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
