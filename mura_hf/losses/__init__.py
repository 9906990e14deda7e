"""Losses, one a file."""

from .region_loss import region_loss
from .weighted_cross_entropy import class_weights, weighted_cross_entropy

__all__ = ["class_weights", "region_loss", "weighted_cross_entropy"]
