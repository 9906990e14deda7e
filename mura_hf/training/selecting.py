"""How an epoch is ranked by what it shows on dev."""

from collections.abc import Mapping
from typing import Any

SELECTIONS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "kappa": "kappa",
    "f1": "F1",
    "accuracy": "accuracy",
    "brier": "Brier score",
}
"""Study-level figures of dev that can choose an epoch -> what they are called in a sentence."""

_LOWER_IS_BETTER = ("brier",)


def score_of(metrics: Mapping[str, Any], select_by: str) -> float:
    """The figure of an epoch by which it is ranked, higher is better; the worst where it is not defined.

    Args:
        metrics: `classification_metrics` of the studies of dev.
        select_by: One of `SELECTIONS`.
    """
    value = metrics[select_by]
    if value is None:
        return float("-inf")
    return -float(value) if select_by in _LOWER_IS_BETTER else float(value)


def told_of_metrics(metrics: Mapping[str, Any]) -> str:
    """AUROC and kappa of studies in words."""
    kappa = metrics["kappa"]
    return f"AUROC {metrics['auroc']:.3f}, kappa {'not defined' if kappa is None else format(kappa, '.3f')}"


def told_of_selection(select_by: str) -> str:
    """What chose the epoch, in words."""
    return f"study-level {SELECTIONS[select_by]} on dev"
