"""A checkpoint measured against data."""

from .against import compare_checkpoints
from .baselines import measure_baselines
from .calibration import calibrate_checkpoint
from .comparison_plot import plot_comparison
from .comparison_table import write_comparison_table
from .comparisons import answer_otherwise, compare_recipes, take_studies
from .evaluation import evaluate_checkpoint
from .fine_tuning import measure_fine_tuning
from .finishing import Finish, finish_checkpoint
from .giveaways import measure_giveaways
from .implausible import find_flags
from .in_distribution import learn_distribution
from .indexing import index_checkpoint
from .masking import measure_masking
from .planted import measure_planted
from .pointing import point_at_findings, pointing_game
from .published import load_published
from .refusal import measure_refusal
from .reproduction import Reproduction, reproduce
from .reproduction_plan import Budget
from .reproduction_table import render_table, write_tables
from .retrieval_quality import measure_retrieval
from .shortcut_sheet import draw_worst
from .shortcuts import ShortcutAudit, audit_shortcuts
from .splits import describe_source, load_split, load_splits
from .telling import (
    describe_calibration,
    describe_distribution,
    describe_dry_run,
    describe_evaluation,
    describe_index,
    describe_shortcuts,
)
from .twins import measure_twins
from .untrusted import measure_untrusted

__all__ = [
    "Budget",
    "Finish",
    "Reproduction",
    "ShortcutAudit",
    "answer_otherwise",
    "audit_shortcuts",
    "calibrate_checkpoint",
    "compare_checkpoints",
    "compare_recipes",
    "describe_calibration",
    "describe_distribution",
    "describe_dry_run",
    "describe_evaluation",
    "describe_index",
    "describe_shortcuts",
    "describe_source",
    "draw_worst",
    "evaluate_checkpoint",
    "find_flags",
    "finish_checkpoint",
    "index_checkpoint",
    "learn_distribution",
    "load_published",
    "load_split",
    "load_splits",
    "measure_baselines",
    "measure_fine_tuning",
    "measure_giveaways",
    "measure_masking",
    "measure_planted",
    "measure_refusal",
    "measure_retrieval",
    "measure_twins",
    "measure_untrusted",
    "plot_comparison",
    "point_at_findings",
    "pointing_game",
    "render_table",
    "reproduce",
    "take_studies",
    "write_comparison_table",
    "write_tables",
]
