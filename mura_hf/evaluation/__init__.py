"""Arrays in, figures out: no model, no file."""

from .aggregation import aggregate_studies
from .bootstrap import bootstrap_confidence_intervals, bootstrap_mean
from .calibration import calibrate_studies, fit_study_calibration, fit_temperature
from .metrics import classification_metrics

__all__ = [
    "aggregate_studies",
    "bootstrap_confidence_intervals",
    "bootstrap_mean",
    "calibrate_studies",
    "classification_metrics",
    "fit_study_calibration",
    "fit_temperature",
]
