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
from .pointing import point_at_findings, pointing_game
from .published import load_published
from .refusal import measure_refusal
from .reproduction import Reproduction, reproduce
from .reproduction_plan import Budget
from .reproduction_table import render_table, write_tables
from .splits import describe_source, load_split, load_splits
from .telling import describe_calibration, describe_distribution, describe_dry_run, describe_evaluation
from .twins import measure_twins
from .untrusted import measure_untrusted

__all__ = [
    "Budget",
    "Finish",
    "Reproduction",
    "answer_otherwise",
    "calibrate_checkpoint",
    "compare_checkpoints",
    "compare_recipes",
    "describe_calibration",
    "describe_distribution",
    "describe_dry_run",
    "describe_evaluation",
    "describe_source",
    "evaluate_checkpoint",
    "find_flags",
    "finish_checkpoint",
    "learn_distribution",
    "load_published",
    "load_split",
    "load_splits",
    "measure_baselines",
    "measure_fine_tuning",
    "measure_giveaways",
    "measure_refusal",
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
