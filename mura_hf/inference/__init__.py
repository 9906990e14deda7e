"""Files of a study in, an explained answer out."""

from .external_model import OTHER_WARNING
from .loading import STRANGE_WARNING
from .prediction import PHANTOM_WARNING, StudyPrediction, ViewPrediction
from .predictor import StudyPredictor
from .study_files import StudyFile, StudyFiles, find_studies
from .worklist import WorklistRow, predict_rows, sort_rows, worklist_csv, worklist_json

__all__ = [
    "OTHER_WARNING",
    "PHANTOM_WARNING",
    "STRANGE_WARNING",
    "StudyFile",
    "StudyFiles",
    "StudyPrediction",
    "StudyPredictor",
    "ViewPrediction",
    "WorklistRow",
    "find_studies",
    "predict_rows",
    "sort_rows",
    "worklist_csv",
    "worklist_json",
]
