"""Training with Accelerate: arguments, trainer, checkpointing, fine-tuning and ensembles."""

from ..common import require_extra

require_extra("train", "accelerate", "datasets", "scipy", "sklearn", "yaml")

from .arguments import TrainingArguments, TrainingConfig, TrainingStage  # noqa: E402
from .checkpointing import FINISHED_FILE  # noqa: E402
from .configs import config_from_record, config_names, load_config, read_command_line  # noqa: E402
from .ensemble import fit_member_weights  # noqa: E402
from .fine_tuning import keep_split_of_base  # noqa: E402
from .initialization import build_model, build_processor, describe_base, find_base  # noqa: E402
from .launch import estimate, train  # noqa: E402
from .prediction import SplitPredictions, predict_views  # noqa: E402
from .processes import forget_processes, leave_processes  # noqa: E402
from .records import MANIFEST_FILE, recorded_split  # noqa: E402
from .trainer import Trainer  # noqa: E402

__all__ = [
    "FINISHED_FILE",
    "MANIFEST_FILE",
    "SplitPredictions",
    "Trainer",
    "TrainingArguments",
    "TrainingConfig",
    "TrainingStage",
    "build_model",
    "build_processor",
    "config_from_record",
    "config_names",
    "describe_base",
    "estimate",
    "find_base",
    "fit_member_weights",
    "forget_processes",
    "keep_split_of_base",
    "leave_processes",
    "load_config",
    "predict_views",
    "read_command_line",
    "recorded_split",
    "train",
]
