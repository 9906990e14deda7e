"""A checkpoint measured against a dataset. The public names of `mura_hf.metrics` can be imported from here as well."""

from ..metrics import (
    EvaluationReport,
    GroupReport,
    aggregate_studies,
    bootstrap_confidence_intervals,
    choose_operating_points,
    classification_metrics,
    fit_study_calibration,
    fit_temperature,
    paired_bootstrap,
)
from .calibration import calibrate_checkpoint
from .compare import compare_checkpoints
from .evaluation import evaluate_checkpoint, measure_baselines
from .finalize import Finish, finish_checkpoint
from .leakage import measure_giveaways
from .masking import measure_masking
from .ood_detection import learn_distribution, measure_refusal
from .pointing_game import point_at_findings, pointing_game
from .positive_control import draw_worst, measure_planted
from .published import load_published
from .retrieval import index_checkpoint, measure_retrieval
from .shortcuts import ShortcutAudit, audit_shortcuts, measure_twins
from .splits import describe_source, load_split, load_splits
from .summary import (
    describe_calibration,
    describe_distribution,
    describe_dry_run,
    describe_evaluation,
    describe_index,
    describe_shortcuts,
)

__all__ = [
    "EvaluationReport",
    "Finish",
    "GroupReport",
    "ShortcutAudit",
    "aggregate_studies",
    "audit_shortcuts",
    "bootstrap_confidence_intervals",
    "calibrate_checkpoint",
    "choose_operating_points",
    "classification_metrics",
    "compare_checkpoints",
    "describe_calibration",
    "describe_distribution",
    "describe_dry_run",
    "describe_evaluation",
    "describe_index",
    "describe_shortcuts",
    "describe_source",
    "draw_worst",
    "evaluate_checkpoint",
    "finish_checkpoint",
    "fit_study_calibration",
    "fit_temperature",
    "index_checkpoint",
    "learn_distribution",
    "load_published",
    "load_split",
    "load_splits",
    "measure_baselines",
    "measure_giveaways",
    "measure_masking",
    "measure_planted",
    "measure_refusal",
    "measure_retrieval",
    "measure_twins",
    "paired_bootstrap",
    "point_at_findings",
    "pointing_game",
]
