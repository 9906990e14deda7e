"""Two checkpoints on the same study, side by side. Names come from strangers and are escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from ..inference import StudyPrediction
from ..radiographs import Radiograph
from .answer import answer_html, chance_text, is_withheld, trouble_html
from .pictures import film_url, heat_url

_SIDE = 640  # pixels of a picture on its longer side
_SIGNS = {True: "▲ flagged", False: "○ not flagged"}


@dataclass(frozen=True)
class Contender:
    """One of the two.

    Attributes:
        name: "A" or "B".
        study: Its answer; None where it has none.
        trouble: Why it has none.
    """

    name: str
    study: StudyPrediction | None
    trouble: str = ""

    @property
    def told(self) -> StudyPrediction | None:
        """Its answer, unless that is kept back."""
        return None if is_withheld(self.study, False) else self.study

    @property
    def silence(self) -> str:
        """What stands where a figure would, had it told one."""
        return "no answer" if self.study is None else "not shown"


def comparison_html(
    first: Contender, second: Contender, radiographs: Sequence[Radiograph], problems: Sequence[str] = ()
) -> str:
    """Verdicts, the probabilities of each view with their difference, and each view with both heatmaps.

    Args:
        first: On the left, or above.
        second: On the right, or below.
        radiographs: The views that both were given.
        problems: A sentence about each view that neither was given.
    """
    left_out = "".join(f'<div class="notice bad" role="alert">Left out: {escape(told)}</div>' for told in problems)
    sides = "".join(_side_html(one) for one in (first, second))
    pairs = ""
    if first.study is not None or second.study is not None:
        for place, radiograph in enumerate(radiographs):
            film = film_url(radiograph.pixels, _SIDE)
            pairs += _pair_html(first, second, place, film)
    return (
        f'<section class="compared" aria-label="Comparison">{left_out}<div class="sides">{sides}</div>'
        f'{_table_html(first, second)}<div class="pairs">{pairs}</div></section>'
    )


def _table_html(first: Contender, second: Contender) -> str:
    both = (first, second)
    known = first.told or second.told
    if known is None:
        return ""
    rows = [_row_html("Study", both, [one.told.probability if one.told else None for one in both])]
    for place, view in enumerate(known.views):
        rows.append(_row_html(view.name, both, [one.told.views[place].alone if one.told else None for one in both]))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Probabilities"><table><caption>P(abnormal) of the '
        'study, and of each view as a study of its own</caption><thead><tr><th scope="col">Of</th>'
        f'<th scope="col">{first.name}</th><th scope="col">{second.name}</th><th scope="col">{second.name} − '
        f"{first.name}</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row_html(name: str, both: Sequence[Contender], chances: Sequence[float | None]) -> str:
    cells = [one.silence if chance is None else chance_text(chance) for one, chance in zip(both, chances, strict=True)]
    before, after = chances
    cells.append("–" if before is None or after is None else _signed(after - before))
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _signed(value: float) -> str:
    shown = f"{value:+.2f}"
    return "0.00" if shown in ("+0.00", "-0.00") else shown.replace("-", "−")


def _side_html(one: Contender) -> str:
    answer = trouble_html(one.trouble) if one.study is None else answer_html(one.study)
    return f'<div class="side"><h3>{one.name}</h3>{answer}</div>'


def _pair_html(first: Contender, second: Contender, place: int, film: str) -> str:
    known = first.study or second.study
    name = "" if known is None else escape(known.views[place].name)
    both = "".join(_figure_html(one, place, film, name) for one in (first, second))
    return f'<section class="pair" aria-label="View {name}"><h3><bdi>{name}</bdi></h3><div>{both}</div></section>'


def _figure_html(one: Contender, place: int, film: str, name: str) -> str:
    view = None if one.told is None else one.told.views[place]
    heat, words = "", one.silence
    if view is not None:
        heat = _heat_html(view.heatmap, f"Model attention of {one.name} over {name}")
        words = f"{_SIGNS[view.flagged]}, P(abnormal) {chance_text(view.alone)}"
        words += "" if heat else ", no heatmap"
    return (
        f'<figure><div class="stage"><div class="film"><img src="{film}" alt="Radiograph {name}">{heat}</div></div>'
        f"<figcaption><b>{one.name}</b> {words}</figcaption></figure>"
    )


def _heat_html(heatmap: np.ndarray | None, words: str) -> str:
    return "" if heatmap is None else f'<img class="heat" src="{heat_url(heatmap)}" alt="{words}">'
