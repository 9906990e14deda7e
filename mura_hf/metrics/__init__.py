"""Metrics of a binary classifier: arrays in, figures out. Nothing here needs a model or a dataset."""

from .baselines import constant_baseline, random_baseline, view_count_baseline
from .bootstrap import bootstrap_confidence_intervals, paired_bootstrap
from .calibration import calibrate_studies, fit_study_calibration, fit_temperature, measure_calibration
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
from .intervals import (
    MIN_CLUSTERS,
    MIN_STUDIES,
    adjust_p_values,
    confidence_intervals,
    mean_interval,
    mean_with_interval,
    paired_comparison,
    rate_interval,
    share_interval,
    sign_flip_test,
)
from .operating_points import (
    CONFIDENCE,
    FORMER_RULES,
    OPERATING_POINTS,
    choose_operating_points,
    measure_operating_points,
    predictive_values,
)
from .plots import PLOTS, plot_evaluation
from .report import EvaluationReport, GroupReport

__all__ = [
    "CONFIDENCE",
    "FORMER_RULES",
    "MIN_CLUSTERS",
    "MIN_SIZES",
    "MIN_STUDIES",
    "OPERATING_POINTS",
    "PLOTS",
    "EvaluationReport",
    "GroupReport",
    "adjust_p_values",
    "aggregate_studies",
    "bootstrap_confidence_intervals",
    "calibrate_studies",
    "choose_operating_points",
    "classification_metrics",
    "confidence_intervals",
    "confusion_matrix",
    "constant_baseline",
    "fit_study_calibration",
    "fit_temperature",
    "matrix_metrics",
    "mean_interval",
    "mean_with_interval",
    "measure_calibration",
    "measure_curves",
    "measure_operating_points",
    "measure_reliability",
    "paired_bootstrap",
    "paired_comparison",
    "plot_evaluation",
    "predictive_values",
    "random_baseline",
    "rate_interval",
    "share_interval",
    "sign_flip_test",
    "too_few_studies",
    "view_count_baseline",
]
