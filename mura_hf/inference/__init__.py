"""Files of a study in, an explained answer out."""

from .prediction import PHANTOM_WARNING, StudyPrediction, ViewPrediction
from .predictor import StudyPredictor
from .sources import BUNDLED_CHECKPOINT

__all__ = ["BUNDLED_CHECKPOINT", "PHANTOM_WARNING", "StudyPrediction", "StudyPredictor", "ViewPrediction"]
