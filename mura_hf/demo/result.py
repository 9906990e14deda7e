"""HTML of a result: the answer, the measured performance of the operating point, and similar cases.

File names and labels come from strangers and are escaped.
"""

import base64
from collections.abc import Sequence
from html import escape

from ..errors import CheckpointError
from ..inference import OOD_WARNING, StudyPrediction, StudyPredictor
from ..inference.measured_performance import OVERALL, OperatingPointPerformance
from ..retrieval import Neighbour, RetrievalIndex

EMPTY = '<div class="empty">Drop the views of one study into the box, or choose an example.</div>'
N_SIMILAR = 5

_VERDICTS = {
    "abnormal": ("▲", "Abnormal: flagged", "The model flags this study."),
    "uncertain": ("◐", "Uncertain", "The model is not certain. At this operating point the study is <b>{}</b>."),
    "normal": ("○", "Nothing flagged", "This does not exclude a fracture."),
}
_POOLING = {
    "mean": "Mean of {}",
    "max": "Maximum of {}",
    "noisy_or": "Noisy-or of {}",
    "gated_attention": "{}, weighted by learned attention",
    "ensemble": "Weighted mean of several models over {}",
    "specialized": "Model of this body part over {}",
}
_POINTS = {
    "paper": "Rule of the MURA paper",
    "youden": "Youden’s index",
    "sensitivity_95": "Few misses",
    "specificity_95": "Few false alarms",
}


def is_withheld(study: StudyPrediction | None, show_anyway: bool = False) -> bool:
    """Whether the answer is not shown: the study is out of distribution, and the visitor has not insisted."""
    return study is not None and study.in_distribution is False and not show_anyway


def answer_html(study: StudyPrediction | None, problems: Sequence[str] = (), *, show_anyway: bool = False) -> str:
    """The answer for a study with its warnings and the files that could not be read.

    Args:
        study: The prediction; None if no view could be read.
        problems: A sentence about each file that could not be read.
        show_anyway: Whether to show the answer even if the study is out of distribution.
    """
    parts = []
    if study is not None:
        withheld = is_withheld(study, show_anyway)
        parts.append(_withheld_html(study) if withheld else _verdict_html(study))
        warnings = [warning for warning in study.warnings if not (withheld and warning == OOD_WARNING)]
        parts += [f'<div class="notice" role="note">{escape(warning)}</div>' for warning in warnings]
    if problems:
        rows = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        rest = "The answer is about the other views." if study else "There is no view left to read."
        parts.append(f'<div class="notice bad" role="alert"><b>Left out.</b> {rest}<ul>{rows}</ul></div>')
    return "".join(parts) or EMPTY


def error_html(sentence: str) -> str:
    """An error message that is not about a single file."""
    return f'<div class="notice bad" role="alert">{escape(sentence)}</div>'


def note_html(sentence: str) -> str:
    """A sentence in small print."""
    return f'<p class="fine">{escape(sentence)}</p>'


def probability_text(probability: float) -> str:
    """A probability with two decimals that never looks certain."""
    if probability < 0.005:
        return "below 0.01"
    return f"{probability:.2f}" if probability < 0.995 else "above 0.99"


def operating_point_text(name: str) -> str:
    """The name of an operating point on the page."""
    return _POINTS.get(name, name)


def operating_point_choices(predictor: StudyPredictor) -> list[tuple[str, str]]:
    """Label and name of each operating point of a checkpoint, lowest threshold first."""
    points = sorted(predictor.model.config.operating_points.items(), key=lambda point: point[1])
    return [(f"{operating_point_text(name)}: above {value:.2f}", name) for name, value in points]


def known_point(predictor: StudyPredictor, name: str | None) -> str | None:
    """The name of an operating point; None, which means the default, if the checkpoint does not have it."""
    return name if name in predictor.model.config.operating_points else None


def _verdict_html(study: StudyPrediction) -> str:
    sign, title, sentence = _VERDICTS[study.band]
    sentence = sentence.format("flagged" if study.label == "abnormal" else "not flagged")
    percent, mark = 100 * study.probability, 100 * study.threshold
    number = f"{len(study.views)} view" + "s" * (len(study.views) != 1)
    pooled = _POOLING[study.pooling].format(number) + ", calibrated" * study.calibrated
    if study.positive_class_description:
        meaning = f"Abnormal means {escape(study.positive_class_description)}."
    else:
        meaning = "Abnormal means what its training labels call abnormal; this checkpoint does not say what that is."
    return (
        f'<section class="answer {study.band}" aria-label="Answer for the study">'
        f'<div class="verdict"><h2><span aria-hidden="true">{sign}</span> {title}</h2>'
        f'<span class="chance">P(abnormal) {probability_text(study.probability)}</span></div>'
        f'<div class="meter" role="img" aria-label="Probability {percent:.0f} percent, threshold {mark:.0f} percent">'
        f'<div class="fill" style="width:{percent:.1f}%"></div><div class="mark" style="left:{mark:.1f}%"></div></div>'
        f"<p>{sentence} {_body_part_text(study)}{_finding_text(study)}</p>"
        f'<p class="fine">{pooled}; flagged strictly above {study.threshold:g} (operating point '
        f"“{escape(operating_point_text(study.operating_point))}”). {meaning}</p>"
        f'<p class="fine">Checkpoint: {escape(study.checkpoint)}</p></section>'
    )


def _withheld_html(study: StudyPrediction) -> str:
    unusual = [escape(view.name) for view in study.views if view.in_distribution is False]
    which = f" Unusual views: {', '.join(unusual)}." if len(study.views) > 1 else ""
    share = study.unusual_percentile or 0.0
    than = "all" if share == 100 else f"{int(share)} % of the"  # not rounded up to all
    return (
        '<section class="answer withheld" aria-label="Answer for the study">'
        '<div class="verdict"><h2><span aria-hidden="true">⊘</span> Not answered</h2></div>'
        "<p>This does not look like the radiographs that the checkpoint was trained on. Its answer may be meaningless "
        f"and is not shown.{which}</p>"
        f'<p class="fine">It is more unusual than {than} reference studies of this checkpoint. It may show another '
        "body part, be another kind of picture, or come from another kind of device.</p>"
        f'<p class="fine">Checkpoint: {escape(study.checkpoint)}</p></section>'
    )


def _body_part_text(study: StudyPrediction) -> str:
    if study.body_part is None:
        return "This checkpoint does not predict the body part."
    if study.body_part_given:
        return f"Body part: <b>{study.body_part}</b> (given by you)."
    probability = study.body_part_probabilities[study.body_part]
    return f"Body part found: <b>{study.body_part}</b> (probability {probability_text(probability)})."


def _finding_text(study: StudyPrediction) -> str:
    types = study.finding_probabilities
    if not types or study.label != "abnormal":
        return ""
    best = max(types, key=types.__getitem__)
    return (
        f" Most likely type, if there is a finding: <b>{escape(best.replace('_', ' '))}</b> "
        f"(probability {probability_text(types[best])})."
    )


def performance_html(performance: OperatingPointPerformance | None, prevalence: float) -> str:
    """The measured performance of an operating point, as counts and as predictive values at a prevalence.

    Args:
        performance: Performance for the body part of the study, or for all; None if it was not measured.
        prevalence: Share of abnormal studies at the visitor's site, in (0, 1).
    """
    if performance is None:
        return (
            '<div class="achieved"><p class="fine">The performance of this operating point was not measured for the '
            "weights of this checkpoint.</p></div>"
        )
    n_abnormal, n_normal = performance.n_abnormal, performance.n_normal
    group = "" if performance.group == OVERALL else f" of the {escape(performance.group)}"
    positive, negative = performance.predictive_values(prevalence)
    flagged = (
        "no study would be flagged"
        if positive is None
        else f"a flagged study is abnormal in <b>{_of_100(positive)}</b> of 100 cases"
    )
    other = (
        "every study would be flagged"
        if negative is None
        else f"a study that is not flagged is normal in <b>{_of_100(negative)}</b> of 100 cases"
    )
    return (
        f'<section class="achieved" aria-label="Measured performance"><p>Measured on '
        f"<b>{n_abnormal + n_normal:,}</b> studies{group} ({escape(performance.held_out)}):</p><dl>"
        f"{_share_html('Abnormal, flagged', performance.n_flagged_abnormal, n_abnormal, 'sensitivity')}"
        f"{_share_html('Normal, not flagged', n_normal - performance.n_flagged_normal, n_normal, 'specificity')}</dl>"
        f'<p class="values">If {100 * prevalence:.0f} of 100 studies are abnormal, {flagged}, and {other}.</p>'
        "</section>"
    )


def _share_html(label: str, count: int, total: int, name: str) -> str:
    value = f"{name} {count / total:.2f}" if total else f"{name} not defined"
    width = 100 * count / total if total else 0
    return (
        f'<div><dt>{label}</dt><dd><span class="bar" aria-hidden="true"><i style="width:{width:.1f}%"></i></span> '
        f"<b>{count:,} of {total:,}</b> <span>({value})</span></dd></div>"
    )


def _of_100(share: float) -> str:
    """A share as a count that never looks certain: not seen in the measurement does not mean never."""
    if share >= 0.995:
        return "more than 99"
    return f"{100 * share:.0f}" if share >= 0.005 else "fewer than 1"


def similar_html(predictor: StudyPredictor, study: StudyPrediction, *, same_part: bool) -> str:
    """The studies in the index of a checkpoint that look most like a study, or a sentence if there are none.

    Args:
        predictor: The predictor with the index.
        study: Its prediction for the study.
        same_part: Whether to search only studies of the same body part.
    """
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
    synthetic = is_synthetic(index)
    name = (index.record.data or {}).get("name")
    source = f" of {escape(str(name))}" if name else ""
    patients = "" if synthetic else " Pictures of patients are not shown."
    return (
        f'<ol class="similar">{"".join(_similar_case_html(neighbour, synthetic) for neighbour in found)}</ol>'
        f'<p class="fine">Nearest of {len(index):,} views{source}, by the features of the checkpoint. A label is that '
        f"of the similar case. It says nothing certain about your study.{patients}</p>"
    )


def is_synthetic(index: RetrievalIndex | None) -> bool:
    """Whether the studies of an index are phantoms, so that no patient is behind them."""
    return index is not None and (index.record.data or {}).get("key") == "phantoms"


def _similar_case_html(neighbour: Neighbour, synthetic: bool) -> str:
    sign = "▲" if neighbour.label == "abnormal" else "○"
    picture = ""
    if synthetic and neighbour.thumbnail is not None:  # pictures of patients are never shown
        data = base64.b64encode(neighbour.thumbnail).decode()
        picture = f'<img src="data:image/webp;base64,{data}" alt="Synthetic phantom, {escape(neighbour.label)}">'
    finding = f", {escape(neighbour.finding.replace('_', ' '))}" if neighbour.finding else ""
    return (
        f'<li>{picture}<span class="state {escape(neighbour.label)}"><span aria-hidden="true">{sign}</span> '
        f"{escape(neighbour.label)}{finding}</span><span>{escape(neighbour.body_part or 'unknown body part')}, "
        f'distance {neighbour.distance:.2f}</span><span class="fine">{escape(neighbour.study_id)}</span></li>'
    )
