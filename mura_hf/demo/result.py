"""HTML of a result: the answer, how sure it is, the performance of the operating point, and similar cases."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..inference import OOD_WARNING, StudyPrediction, StudyPredictor, ViewPrediction
from ..inference.measured_performance import OVERALL, OperatingPointPerformance
from ..inference.prediction import PHANTOM_WARNING
from ..radiographs import Radiograph
from ..retrieval import Neighbour, RetrievalIndex
from . import templates
from .examples import ExampleStudy
from .templates import BANDS, note_html, operating_point_text, render, threshold_text, with_article

N_SIMILAR = 6  # fills rows of two, three and six

_LIGHT = 0.55  # median of the outermost pixels from which a border is light; films have a dark one
_CONTRADICTED = 0.9  # probability of another body part from which the page asks whether the given one is right
_SAME = 0.05  # of the distance of the farthest case shown, from which the nearest one is probably the same picture


def is_withheld(study: StudyPrediction | None, show_anyway: bool = False) -> bool:
    """Whether the answer is not shown: the study is out of distribution, and the visitor does not want it anyway."""
    return study is not None and study.in_distribution is False and not show_anyway


def answer_html(
    study: StudyPrediction | None,
    problems: Sequence[str] = (),
    *,
    radiographs: Sequence[Radiograph] = (),
    example: ExampleStudy | None = None,
    show_anyway: bool = False,
) -> str:
    """The answer for a study, with its warnings and a sentence about each file that was left out.

    Args:
        study: The prediction; None without a readable view.
        problems: A sentence about each file that was left out.
        radiographs: The views, to say what is unusual about them.
        example: The example that is answered; the answer is then compared with what is known about it.
        show_anyway: Whether the visitor wants to see an answer that would be withheld.
    """
    if study is None:
        return render("answer", study=None, problems=problems, warnings=())
    withheld, band = is_withheld(study, show_anyway), study.probability_band
    said = [OOD_WARNING]  # by the answer itself
    if example is not None and example.source is None:
        said.append(PHANTOM_WARNING)  # no real radiograph
    warnings = [warning for warning in study.warnings if warning not in said]
    knows_phantoms_only, noticed = PHANTOM_WARNING in study.warnings, _notice(study, radiographs)
    reason = templates.WITHHELD_NO_ARM if noticed else templates.WITHHELD_UNLIKE
    if knows_phantoms_only:
        reason = templates.WITHHELD_PHANTOMS
    return render(
        "answer",
        study=study,
        problems=problems,
        withheld=withheld,
        unusual=study.in_distribution is False,
        knows_phantoms_only=knows_phantoms_only,
        reason=reason,
        noticed=noticed,
        band=band,
        warnings=[*_contradictions(study), *warnings],
        sign=BANDS[band][0],
        title=study.describe_band(band),
        a_finding=with_article(study.finding),
        zones=_zones(study.band_limits),
        mark=min(max(100 * study.probability, 0.5), 99.5),
        truth=None if example is None else _compare(study, example),
        outlier=_find_outlier(study),
    )


def details_html(study: StudyPrediction, *, with_views: bool = True) -> str:
    """How sure the answer for a study is: what its band achieved, how it follows, and a table of the views."""
    mean = sum(view.weight * view.probability for view in study.views) if study.pooling == "mean" else None
    share, types = study.unusual_percentile or 0.0, study.finding_probabilities
    return render(
        "details",
        study=study,
        views=study.views if with_views and len(study.views) > 1 else (),
        mean=mean if study.calibrated and len(study.views) > 1 else None,
        measured=None if study.in_distribution is False else study.band_performance,
        a_finding=with_article(study.finding) if study.finding == templates.FRACTURE else templates.ANY_FINDING,
        pooled=templates.POOLING[study.pooling] if len(study.views) > 1 else None,
        band=BANDS[study.probability_band][1],
        has_doubt=study.band_limits[0] < study.band_limits[1],
        finding=max(types, key=types.__getitem__) if types and study.label == "abnormal" else None,
        than=templates.ALL_STUDIES if share == 100 else templates.SOME_STUDIES.format(int(share)),  # not rounded up
    )


def credit_text(example: ExampleStudy | None) -> str | None:
    """Whom to credit for the pictures of an example; None if nobody."""
    return templates.CREDIT.format(example.credit) if example and example.credit else None


def _find_outlier(study: StudyPrediction) -> ViewPrediction | None:
    """The view with the highest probability of its own, if that lies in a higher band than the study's."""
    if study.in_distribution is False or len(study.views) < 2:
        return None
    highest = max(study.views, key=lambda view: view.single_view_probability)
    return highest if study.stands_out(highest) else None


def _zones(limits: tuple[float, float]) -> list[tuple[str, str, float]]:
    """Band, text, and width in percent of the zones of the bar, which is a scale from 0 to 1."""
    lower, upper = limits
    zones = (("low", lower), ("uncertain", upper - lower), ("suspected", 1 - upper))
    return [(band, BANDS[band][1], 100 * width) for band, width in zones if width or band != "uncertain"]


def _notice(study: StudyPrediction, radiographs: Sequence[Radiograph]) -> list[str]:
    """What is unusual about the unusual views, as far as simple properties say so."""
    pairs = zip(study.views, radiographs, strict=False)
    views = [radiograph for view, radiograph in pairs if view.in_distribution is False]
    found = []
    if any(view.is_coloured for view in views):
        found.append(templates.COLOURED)
    if any(_border(view.pixels) > _LIGHT for view in views):
        found.append(templates.LIGHT_BORDER)
    if study.scope_note:
        found.append(templates.OTHER_REGION.format(study.region_words))
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
    return [templates.CONTRADICTED.format(given=study.body_part, found=best, a_found=with_article(best))]


def _compare(study: StudyPrediction, example: ExampleStudy) -> dict[str, str]:
    """A tag and a sentence that compare the answer for an example with what is known about it."""
    is_abnormal, band = example.label == "abnormal", study.probability_band
    if example.source is None:
        finding = example.finding and templates.THE_FINDING.format(example.finding.replace("_", " "))
        known = templates.DRAWN.format(finding or templates.NO_FINDING)
    else:
        seen = with_article(templates.FRACTURE) if is_abnormal else templates.NO_FRACTURE
        known = templates.RADIOLOGISTS.format(seen)
        if is_abnormal and band != "low":
            known = f"{known} {templates.PLACE_UNKNOWN}"
    tag = "undecided" if band == "uncertain" else "right"
    if is_abnormal and band == "low":
        tag = "missed"
    elif not is_abnormal and band == "suspected":
        tag = "alarm"
    return {"tag": templates.TAG.format(templates.COMPARED[tag]), "sentence": known}


def operating_point_choices(predictor: StudyPredictor) -> list[tuple[str, str]]:
    """Label and name of each operating point of a checkpoint, lowest threshold first."""
    points = sorted(predictor.model.config.operating_points.items(), key=lambda point: point[1])
    return [
        (templates.POINT.format(name=operating_point_text(name), threshold=threshold_text(value)), name)
        for name, value in points
    ]


def known_point(predictor: StudyPredictor, name: str | None) -> str | None:
    """The name of an operating point; None, which means the default, if the checkpoint does not have it."""
    return name if name in predictor.model.config.operating_points else None


def performance_html(performance: OperatingPointPerformance | None, prevalence: float) -> str:
    """The measured performance of an operating point, as counts and as predictive values at a prevalence in (0, 1)."""
    return render("performance", performance=performance, prevalence=prevalence, overall=OVERALL)


def similar_html(predictor: StudyPredictor, study: StudyPrediction, *, same_part: bool) -> str:
    """The studies in the index of a checkpoint that look most like a study, or a sentence if there are none."""
    if same_part and study.body_part is None:
        return note_html(templates.NO_PART_TO_SEARCH)
    try:
        index = predictor.index
        if index is None:
            return note_html(templates.NO_INDEX.format(predictor.checkpoint))
        found = predictor.similar(study, N_SIMILAR, study.body_part if same_part else None)
    except (CheckpointError, ValueError) as error:
        return note_html(str(error))
    if not found:
        return note_html(templates.NONE_OF_PART)
    source = (index.record.data or {}).get("name")
    cases = similar_cases(index, found)
    n_known = _count_known(found)
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


def _count_known(found: Sequence[Neighbour]) -> int:
    return sum(one.distance < _SAME * found[-1].distance for one in found)


def warn_if_known(predictor: StudyPredictor, study: StudyPrediction) -> StudyPrediction:
    """Adds a warning if a study is nearly identical to one of the index, which the model has learned from."""
    try:
        known = predictor.index is not None and _count_known(predictor.similar(study, N_SIMILAR))
    except (CheckpointError, ValueError):  # said where similar studies are asked for
        known = False
    return replace(study, warnings=[*study.warnings, templates.KNOWN]) if known else study


def similar_cases(index: RetrievalIndex, found: Sequence[Neighbour]) -> list[dict[str, Any]]:
    """Fields of similar studies for the page and the API.

    `thumbnail` is a data URL if the pictures may be shared, and `credit` whom to credit for it; else both are None.
    The patient is left out.
    """
    cases = []
    for one in found:
        case: dict[str, Any] = {**vars(one), "thumbnail": None, "credit": None}
        if one.thumbnail is not None and index.record.may_be_shared:
            case["thumbnail"] = f"data:image/webp;base64,{base64.b64encode(one.thumbnail).decode()}"
            case["credit"] = index.record.picture_credit
        cases.append({name: value for name, value in case.items() if name not in ("row", "patient_id")})
    return cases
