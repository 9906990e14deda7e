"""A checkpoint measured against data."""

from .evaluation import evaluate_checkpoint
from .giveaways import measure_giveaways
from .splits import load_split

__all__ = ["evaluate_checkpoint", "load_split", "measure_giveaways"]
