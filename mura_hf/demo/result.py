"""Operating points in words: what there is to choose, and what the chosen one was measured to achieve.

The answer and the views as HTML. File names come from strangers and are escaped.
Similar cases as HTML.
"""

import base64
from collections.abc import Sequence
from html import escape

from ..errors import CheckpointError
from ..inference import OOD_WARNING, StudyPrediction, StudyPredictor
from ..inference.measured_performance import OVERALL, OperatingPointPerformance
from ..retrieval import Neighbour, RetrievalIndex

_NAMES = {
    "paper": "MURA paper’s rule",
    "youden": "Youden’s index",
    "sensitivity_95": "Few misses",
    "specificity_95": "Few false alarms",
}


def operating_point_words(name: str) -> str:
    """What an operating point is called on the page; its name where it is none that this package sets."""
    return _NAMES.get(name, name)


def operating_point_choices(predictor: StudyPredictor) -> list[tuple[str, str]]:
    """Words and name of each operating point of a checkpoint, from many flagged studies to few."""
    points = sorted(predictor.model.config.operating_points.items(), key=lambda point: point[1])
    return [(f"{operating_point_words(name)}: above {value:.2f}", name) for name, value in points]


def achievement_html(achievement: OperatingPointPerformance | None, prevalence: float) -> str:
    """What the operating point in use was measured to achieve, as counts, and what that means at a prevalence.

    Args:
        achievement: Of the study's body part, or of all; None where that was not measured.
        prevalence: Share of studies that are abnormal where the reader is, in (0, 1).
    """
    if achievement is None:
        return (
            '<div class="achieved"><p class="fine">What this operating point achieves was not measured for this '
            "checkpoint’s weights, so nothing is said of it here.</p></div>"
        )
    found, of = achievement.n_flagged_abnormal, achievement.n_abnormal
    alarms, normal = achievement.n_flagged_normal, achievement.n_normal
    group = "" if achievement.group == OVERALL else f" of the {escape(achievement.group)}"
    return (
        f'<section class="achieved" aria-label="Measured performance"><p>Measured on '
        f"<b>{of + normal:,}</b> studies{group} ({escape(achievement.held_out)}):</p><dl>"
        f"{_share('Abnormal, flagged', found, of, 'sensitivity')}"
        f"{_share('Normal, not flagged', normal - alarms, normal, 'specificity')}</dl>"
        f"{_values(achievement, prevalence)}</section>"
    )


def _share(words: str, count: int, of: int, name: str) -> str:
    told = f"{name} {count / of:.2f}" if of else f"{name} not defined"
    width = 100 * count / of if of else 0
    return (
        f'<div><dt>{words}</dt><dd><span class="bar" aria-hidden="true"><i style="width:{width:.1f}%"></i></span> '
        f"<b>{count:,} of {of:,}</b> <span>({told})</span></dd></div>"
    )


def _values(achievement: OperatingPointPerformance, prevalence: float) -> str:
    positive, negative = achievement.predictive_values(prevalence)
    where = f"Where {100 * prevalence:.0f} of 100 studies are abnormal"
    flagged = "no study would be flagged" if positive is None else (
        f"a flagged study is abnormal in <b>{_of_100(positive)}</b> of 100 cases"
    )  # fmt: skip
    other = "every one would be" if negative is None else (
        f"one that is not flagged is normal in <b>{_of_100(negative)}</b> of 100"
    )  # fmt: skip
    return f'<p class="values">{where}, {flagged}, and {other}.</p>'


def _of_100(share: float) -> str:
    """A share as a count that never reads as certain: where it was measured, none was seen, which is not never."""
    if share >= 0.995:
        return "more than 99"
    return f"{100 * share:.0f}" if share >= 0.005 else "fewer than 1"


EMPTY = '<div class="empty">Drop the views of one study into the box, or choose an example.</div>'

_VERDICTS = {
    "abnormal": ("▲", "Abnormal: flagged", "The model flags this study."),
    "uncertain": ("◐", "Uncertain", "The model cannot tell. At this operating point the study is <b>{}</b>."),
    "normal": ("○", "Nothing flagged", "This does not exclude a fracture."),
}
_MEANING = "what the labels of its training called so, which this checkpoint does not tell"

_POOLED = {
    "mean": "Mean of {}",
    "max": "The highest of {}",
    "noisy_or": "Noisy-or of {}",
    "gated_attention": "{}, weighted by learned attention",
    "ensemble": "Weighted mean of several models over {}",
    "specialized": "The model of this body part over {}",
}


def is_withheld(study: StudyPrediction | None, anyway: bool) -> bool:
    """Whether an answer is kept back: the study is none of those that the checkpoint can judge, and nobody insists."""
    return study is not None and study.in_distribution is False and not anyway


def answer_html(study: StudyPrediction | None, problems: Sequence[str] = (), *, anyway: bool = False) -> str:
    """The study's answer in words, with its probability, body part, warnings and the files that could not be read.

    Args:
        study: What was answered; None where no view could be read.
        problems: A sentence about each file that could not be read.
        anyway: Whether to show the answer for a study that is unlike those of training, too.
    """
    parts = []
    if study is not None:
        withheld = is_withheld(study, anyway)
        parts.append(_withheld_html(study) if withheld else _verdict_html(study))
        told = [warning for warning in study.warnings if not (withheld and warning == OOD_WARNING)]
        parts += [f'<div class="notice" role="note">{escape(warning)}</div>' for warning in told]
    if problems:
        rows = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        left = "The other views were read without them." if study else "There is no view left to read."
        parts.append(f'<div class="notice bad" role="alert"><b>Left out.</b> {left}<ul>{rows}</ul></div>')
    return "".join(parts) or EMPTY


def trouble_html(sentence: str) -> str:
    """A sentence about something other than a file that went wrong."""
    return f'<div class="notice bad" role="alert">{escape(sentence)}</div>'


def chance_text(probability: float) -> str:
    """A probability with two decimals that never reads as certain."""
    if probability < 0.005:
        return "below 0.01"
    return f"{probability:.2f}" if probability < 0.995 else "above 0.99"


def _verdict_html(study: StudyPrediction) -> str:
    sign, title, sentence = _VERDICTS[study.band]
    sentence = sentence.format("flagged" if study.label == "abnormal" else "not flagged")
    percent, mark = 100 * study.probability, 100 * study.threshold
    number = f"{len(study.views)} view" + "s" * (len(study.views) != 1)
    views = _POOLED[study.pooling].format(number) + ", calibrated" * study.calibrated
    point = escape(operating_point_words(study.operating_point))
    return (
        f'<section class="answer {study.band}" aria-label="Answer for the study">'
        f'<div class="verdict"><h2><span aria-hidden="true">{sign}</span> {title}</h2>'
        f'<span class="chance">P(abnormal) {chance_text(study.probability)}</span></div>'
        f'<div class="meter" role="img" aria-label="Probability {percent:.0f} percent, threshold {mark:.0f} percent">'
        f'<div class="fill" style="width:{percent:.1f}%"></div><div class="mark" style="left:{mark:.1f}%"></div></div>'
        f"<p>{sentence} {_body_part_sentence(study)}{_finding_sentence(study)}</p>"
        f'<p class="fine">{views}; flagged strictly above {study.threshold:g} (operating point '
        f"“{point}”). Abnormal means {escape(study.positive_class_description or _MEANING)}.</p>"
        f'<p class="fine">Checkpoint: {escape(study.checkpoint)}</p></section>'
    )


def _withheld_html(study: StudyPrediction) -> str:
    """That there is no answer, and why."""
    strange = [escape(view.name) for view in study.views if view.in_distribution is False]
    which = f" Strange: {', '.join(strange)}." if len(study.views) > 1 else ""
    return (
        '<section class="answer withheld" aria-label="Answer for the study">'
        '<div class="verdict"><h2><span aria-hidden="true">⊘</span> Not answered</h2></div>'
        "<p>This does not look like the radiographs that the checkpoint was trained on, so its answer may mean "
        f"nothing and is not shown.{which}</p>"
        f'<p class="fine">{_unusual(study)} It may be another part of the body, another kind of picture, or a film '
        "that was taken or saved in another way.</p>"
        f'<p class="fine">Checkpoint: {escape(study.checkpoint)}</p></section>'
    )


def _unusual(study: StudyPrediction) -> str:
    share = study.unusual_percentile or 0.0
    than = "all" if share == 100 else f"{int(share)} % of the"  # never rounded up to all
    return f"More unusual than {than} studies that were kept aside to learn what is usual."


def _finding_sentence(study: StudyPrediction) -> str:
    """The likeliest type of finding, where the study is flagged and the checkpoint tells types."""
    types = study.finding_probabilities
    if not types or study.label != "abnormal":
        return ""
    best = max(types, key=types.__getitem__)
    return (
        f" Likeliest type, if there is a finding: <b>{escape(best.replace('_', ' '))}</b> "
        f"(probability {chance_text(types[best])})."
    )


def _body_part_sentence(study: StudyPrediction) -> str:
    if study.body_part is None:
        return "This checkpoint does not tell the body part."
    if study.body_part_given:
        return f"Body part: <b>{study.body_part}</b> (given by you)."
    chance = study.body_part_probabilities[study.body_part]
    return f"Body part found: <b>{study.body_part}</b> (probability {chance_text(chance)})."


NEAREST = 5


def similar_html(predictor: StudyPredictor, study: StudyPrediction, *, same_part: bool) -> str:
    """The studies of a checkpoint's index that look most like one, or a sentence about why there are none.

    Args:
        predictor: The one that answered; its index is searched.
        study: Its answer.
        same_part: Whether to search only among studies of the same body part.
    """
    if same_part and study.body_part is None:
        return _sentence("This checkpoint does not tell the body part; choose one, or search the whole database.")
    try:
        index = predictor.index
        if index is None:
            return _sentence(f"{predictor.checkpoint} brings no database of studies, so none can be compared.")
        found = predictor.similar(study, NEAREST, study.body_part if same_part else None)
    except (CheckpointError, ValueError) as error:
        return _sentence(str(error))
    if not found:
        return _sentence("The database holds no study that is known to be of this body part.")
    synthetic = is_synthetic(index)
    name = (index.record.data or {}).get("name")
    whose = f" of {escape(str(name))}" if name else ""
    patients = "" if synthetic else " Pictures of patients are not shown."
    return (
        f'<ol class="similar">{"".join(_card(neighbour, synthetic) for neighbour in found)}</ol>'
        f'<p class="fine">Nearest of {len(index):,} views{whose}, by the checkpoint’s own code of a view. A label is '
        f"that of the similar case and says nothing certain about yours.{patients}</p>"
    )


def is_synthetic(index: RetrievalIndex | None) -> bool:
    """Whether the studies of an index are phantoms, and so of nobody."""
    return index is not None and (index.record.data or {}).get("key") == "phantoms"


def _sentence(words: str) -> str:
    return f'<p class="fine">{escape(words)}</p>'


def _card(neighbour: Neighbour, synthetic: bool) -> str:
    """One similar case. Pictures are shown of phantoms alone: nobody is behind them."""
    sign = "▲" if neighbour.label == "abnormal" else "○"
    picture = ""
    if synthetic and neighbour.thumbnail is not None:
        data = base64.b64encode(neighbour.thumbnail).decode()
        picture = f'<img src="data:image/webp;base64,{data}" alt="Synthetic phantom, {escape(neighbour.label)}">'
    finding = f", {escape(neighbour.finding.replace('_', ' '))}" if neighbour.finding else ""
    return (
        f'<li>{picture}<span class="state {escape(neighbour.label)}"><span aria-hidden="true">{sign}</span> '
        f"{escape(neighbour.label)}{finding}</span><span>{escape(neighbour.body_part or 'part not known')}, distance "
        f'{neighbour.distance:.2f}</span><span class="fine">{escape(neighbour.study_id)}</span></li>'
    )
