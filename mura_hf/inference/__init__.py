"""From the files of a study to an explained prediction (`StudyPredictor`), and worklists of many studies."""

from .external_model import EXTERNAL_WARNING
from .prediction import OOD_WARNING, PHANTOM_WARNING, StudyPrediction, ViewPrediction
from .predictor import StudyPredictor
from .study_files import StudyFile, StudyFiles, find_studies
from .worklist import WorklistRow, make_worklist, predict_rows, sort_rows, worklist_csv, worklist_json

__all__ = [
    "EXTERNAL_WARNING",
    "OOD_WARNING",
    "PHANTOM_WARNING",
    "StudyFile",
    "StudyFiles",
    "StudyPrediction",
    "StudyPredictor",
    "ViewPrediction",
    "WorklistRow",
    "find_studies",
    "make_worklist",
    "predict_rows",
    "sort_rows",
    "worklist_csv",
    "worklist_json",
]
