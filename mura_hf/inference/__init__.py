"""Files of a study in, an explained answer out."""

from .prediction import PHANTOM_WARNING, StudyPrediction, ViewPrediction
from .predictor import StudyPredictor

__all__ = ["PHANTOM_WARNING", "StudyPrediction", "StudyPredictor", "ViewPrediction"]
