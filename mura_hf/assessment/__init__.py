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
from .indexing import index_checkpoint
from .pointing import pointing_game
from .published import load_published
from .reproduction import Reproduction, reproduce
from .reproduction_plan import Budget
from .reproduction_table import render_table, write_tables
from .retrieval_quality import measure_retrieval
from .splits import describe_source, load_split, load_splits
from .telling import describe_calibration, describe_dry_run, describe_evaluation, describe_index
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
    "describe_dry_run",
    "describe_evaluation",
    "describe_index",
    "describe_source",
    "evaluate_checkpoint",
    "find_flags",
    "finish_checkpoint",
    "index_checkpoint",
    "load_published",
    "load_split",
    "load_splits",
    "measure_baselines",
    "measure_fine_tuning",
    "measure_giveaways",
    "measure_retrieval",
    "measure_twins",
    "measure_untrusted",
    "plot_comparison",
    "pointing_game",
    "render_table",
    "reproduce",
    "take_studies",
    "write_comparison_table",
    "write_tables",
]
