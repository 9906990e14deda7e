"""Arrays in, figures out: no model, no file."""

from .aggregation import aggregate_studies
from .baselines import constant_baseline, random_baseline, view_count_baseline
from .bootstrap import bootstrap_confidence_intervals, bootstrap_mean, paired_bootstrap
from .calibration import calibrate_studies, fit_study_calibration, fit_temperature
from .metrics import classification_metrics

__all__ = [
    "aggregate_studies",
    "bootstrap_confidence_intervals",
    "bootstrap_mean",
    "calibrate_studies",
    "classification_metrics",
    "constant_baseline",
    "fit_study_calibration",
    "fit_temperature",
    "paired_bootstrap",
    "random_baseline",
    "view_count_baseline",
]
