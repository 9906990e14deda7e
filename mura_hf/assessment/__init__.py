"""A checkpoint measured against data."""

from .evaluation import evaluate_checkpoint

__all__ = ["evaluate_checkpoint"]
