"""Operating points in words: what there is to choose, and what the chosen one was measured to achieve."""

from html import escape

from ..inference import StudyPredictor
from ..inference.achievements import OVERALL, Achievement

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


def achievement_html(achievement: Achievement | None, prevalence: float) -> str:
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


def _values(achievement: Achievement, prevalence: float) -> str:
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
