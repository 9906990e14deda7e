"""Metrics of a binary classifier: arrays in, figures out. Nothing here needs a model or a dataset."""

from .baselines import constant_baseline, random_baseline, view_count_baseline
from .bootstrap import bootstrap_confidence_intervals, bootstrap_mean, mean_with_interval, paired_bootstrap
from .calibration import calibrate_studies, fit_study_calibration, fit_temperature
from .classification import (
    MIN_SIZES,
    aggregate_studies,
    classification_metrics,
    confusion_matrix,
    matrix_metrics,
    measure_curves,
    measure_reliability,
    too_few_studies,
)
from .operating_points import OPERATING_POINTS, choose_operating_points, measure_operating_points, predictive_values
from .plots import PLOTS, plot_evaluation
from .report import EvaluationReport, GroupReport

__all__ = [
    "MIN_SIZES",
    "OPERATING_POINTS",
    "PLOTS",
    "EvaluationReport",
    "GroupReport",
    "aggregate_studies",
    "bootstrap_confidence_intervals",
    "bootstrap_mean",
    "calibrate_studies",
    "choose_operating_points",
    "classification_metrics",
    "confusion_matrix",
    "constant_baseline",
    "fit_study_calibration",
    "fit_temperature",
    "matrix_metrics",
    "mean_with_interval",
    "measure_curves",
    "measure_operating_points",
    "measure_reliability",
    "paired_bootstrap",
    "plot_evaluation",
    "predictive_values",
    "random_baseline",
    "too_few_studies",
    "view_count_baseline",
]
