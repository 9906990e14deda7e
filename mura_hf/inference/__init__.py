"""Files of a study in, an explained answer out."""

from .other_checkpoint import OTHER_WARNING
from .prediction import PHANTOM_WARNING, StudyPrediction, ViewPrediction
from .predictor import StudyPredictor

__all__ = ["OTHER_WARNING", "PHANTOM_WARNING", "StudyPrediction", "StudyPredictor", "ViewPrediction"]
