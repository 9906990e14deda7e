"""Recipes and the Accelerate loop."""

from .agreement import leave_processes
from .base_cut import keep_cut_of_base
from .building import build_model, build_processor
from .dry_run import dry_run
from .keeping import CHECKPOINT_FOLDER, FINISHED_FILE, MANIFEST_FILE
from .loop import train
from .member_weights import fit_member_weights
from .prediction import SplitPredictions, predict_views
from .recipe import Recipe
from .recipe_changes import change_recipe
from .recipe_parts import MetricLoss, PatchStage, TrainingStage
from .recipe_reading import load_recipe, recipe_names, with_epochs
from .starting import describe_start

__all__ = [
    "CHECKPOINT_FOLDER",
    "FINISHED_FILE",
    "MANIFEST_FILE",
    "MetricLoss",
    "PatchStage",
    "Recipe",
    "SplitPredictions",
    "TrainingStage",
    "build_model",
    "build_processor",
    "change_recipe",
    "describe_start",
    "dry_run",
    "fit_member_weights",
    "keep_cut_of_base",
    "leave_processes",
    "load_recipe",
    "predict_views",
    "recipe_names",
    "train",
    "with_epochs",
]
