"""The answer and the views as HTML. File names come from strangers and are escaped."""

from collections.abc import Sequence
from html import escape

from ..inference import STRANGE_WARNING, StudyPrediction
from .operating import operating_point_words

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
        told = [warning for warning in study.warnings if not (withheld and warning == STRANGE_WARNING)]
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
        f"“{point}”). Abnormal means {escape(study.abnormal_means or _MEANING)}.</p>"
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
