"""Files of a study in, an explained answer out."""

from .prediction import PHANTOM_WARNING, StudyPrediction, ViewPrediction
from .predictor import BUNDLED_CHECKPOINT, StudyPredictor

__all__ = ["BUNDLED_CHECKPOINT", "PHANTOM_WARNING", "StudyPrediction", "StudyPredictor", "ViewPrediction"]
