"""Files of a study in, an explained answer out."""

from .distribution import STRANGE_WARNING
from .other_checkpoint import OTHER_WARNING
from .prediction import PHANTOM_WARNING, StudyPrediction, ViewPrediction
from .predictor import StudyPredictor

__all__ = [
    "OTHER_WARNING",
    "PHANTOM_WARNING",
    "STRANGE_WARNING",
    "StudyPrediction",
    "StudyPredictor",
    "ViewPrediction",
]
