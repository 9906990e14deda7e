"""Similar cases as HTML."""

import base64
from html import escape

from ..errors import CheckpointError
from ..inference import StudyPrediction, StudyPredictor
from ..retrieval import Neighbour, RetrievalIndex

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
