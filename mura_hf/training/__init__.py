"""Recipes and the Accelerate loop."""

from .building import build_model, build_processor
from .loop import CHECKPOINT_FOLDER, MANIFEST_FILE, train
from .prediction import SplitPredictions, predict_views
from .recipe import PatchStage, Recipe, load_recipe, recipe_names

__all__ = [
    "CHECKPOINT_FOLDER",
    "MANIFEST_FILE",
    "PatchStage",
    "Recipe",
    "SplitPredictions",
    "build_model",
    "build_processor",
    "load_recipe",
    "predict_views",
    "recipe_names",
    "train",
]
