"""Evaluation of a checkpoint on a dataset. The public names of `mura_hf.metrics` can be imported from here as well."""

# ruff: noqa: E402 - the extra is checked before the imports

from ..common import require_extra

require_extra("train", "accelerate", "datasets", "sklearn", "scipy", "matplotlib", "numba", "yaml")

from ..metrics import (
    EvaluationReport,
    GroupReport,
    aggregate_studies,
    bootstrap_confidence_intervals,
    choose_operating_points,
    classification_metrics,
    confidence_intervals,
    fit_study_calibration,
    fit_temperature,
    measure_calibration,
    paired_bootstrap,
    paired_comparison,
)
from .calibration import calibrate_checkpoint
from .evaluation import compare_checkpoints, evaluate_checkpoint, measure_baselines
from .finalize import FinalizeResult, finalize_checkpoint, fit_checkpoint
from .ood_detection import fit_ood_detector, measure_ood_detection
from .pointing_game import PointingGame, play_pointing_game
from .region_head import fit_region_head
from .retrieval import index_checkpoint, measure_retrieval
from .shortcuts import measure_masking
from .splits import describe_source, load_split, load_splits, sample_studies
from .summary import (
    describe_calibration,
    describe_estimate,
    describe_evaluation,
    describe_index,
    describe_ood_detector,
    describe_region_head,
    describe_shortcuts,
    describe_verdict,
)

__all__ = [
    "EvaluationReport",
    "FinalizeResult",
    "GroupReport",
    "PointingGame",
    "aggregate_studies",
    "bootstrap_confidence_intervals",
    "calibrate_checkpoint",
    "choose_operating_points",
    "classification_metrics",
    "compare_checkpoints",
    "confidence_intervals",
    "describe_calibration",
    "describe_estimate",
    "describe_evaluation",
    "describe_index",
    "describe_ood_detector",
    "describe_region_head",
    "describe_shortcuts",
    "describe_source",
    "describe_verdict",
    "evaluate_checkpoint",
    "finalize_checkpoint",
    "fit_checkpoint",
    "fit_ood_detector",
    "fit_region_head",
    "fit_study_calibration",
    "fit_temperature",
    "index_checkpoint",
    "load_split",
    "load_splits",
    "measure_baselines",
    "measure_calibration",
    "measure_masking",
    "measure_ood_detection",
    "measure_retrieval",
    "paired_bootstrap",
    "paired_comparison",
    "play_pointing_game",
    "sample_studies",
]
