"""Arrays in, figures out: no model, no file."""

from .aggregation import aggregate_studies
from .baselines import constant_baseline, random_baseline, view_count_baseline
from .bootstrap import bootstrap_confidence_intervals, bootstrap_mean, paired_bootstrap
from .calibration import calibrate_studies, fit_study_calibration, fit_temperature
from .metrics import classification_metrics
from .plausibility import constant_answer, kappa_range, matching_errors, right_answers

__all__ = [
    "aggregate_studies",
    "bootstrap_confidence_intervals",
    "bootstrap_mean",
    "calibrate_studies",
    "classification_metrics",
    "constant_answer",
    "constant_baseline",
    "fit_study_calibration",
    "fit_temperature",
    "kappa_range",
    "matching_errors",
    "paired_bootstrap",
    "random_baseline",
    "right_answers",
    "view_count_baseline",
]
