"""Arrays in, figures out: no model, no file."""

from .aggregation import aggregate_studies
from .bootstrap import bootstrap_confidence_intervals
from .metrics import classification_metrics

__all__ = ["aggregate_studies", "bootstrap_confidence_intervals", "classification_metrics"]
