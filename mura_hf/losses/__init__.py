"""Losses, one per file."""

from .batch_hard_triplet import batch_hard_triplet_loss
from .metric_losses import METRIC_LOSSES, MetricLoss, build_metric_loss
from .region_loss import region_loss
from .selectively_contrastive_triplet import selectively_contrastive_triplet_loss
from .semi_hard_triplet import semi_hard_triplet_loss
from .triplet_focal import triplet_focal_loss
from .triplet_margin import triplet_margin_loss
from .weighted_cross_entropy import class_weights, weighted_cross_entropy

__all__ = [
    "METRIC_LOSSES",
    "MetricLoss",
    "batch_hard_triplet_loss",
    "build_metric_loss",
    "class_weights",
    "region_loss",
    "selectively_contrastive_triplet_loss",
    "semi_hard_triplet_loss",
    "triplet_focal_loss",
    "triplet_margin_loss",
    "weighted_cross_entropy",
]
