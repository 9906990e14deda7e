"""A plot of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .selecting import score_of

_TRAIN, _DEV = "#1f4e79", "#c55a11"


def plot_curves(history: Sequence[dict[str, Any]], path: str | Path, *, selected_by: str = "auroc") -> None:
    """Draws losses and study-level figures of train and `dev` by epoch, stage after stage.

    Those of train are of augmented pictures and of the weights as they were when each was met, so that they can lie
    below those of dev.

    Args:
        history: A record an epoch with `train_loss`, `dev_loss` where judged, and `train` and `dev`: dicts with
            `auroc` and `kappa`, None where not defined, or None for an epoch that was not judged.
        path: PNG file to write.
        selected_by: The figure that ranks epochs.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    epochs = range(1, len(history) + 1)
    judged = [epoch for epoch, record in zip(epochs, history, strict=True) if record["dev"]]
    axes[0].plot(epochs, [record["train_loss"] for record in history], marker="o", color=_TRAIN, label="train, all")
    if judged:
        losses = [history[epoch - 1].get("dev_loss", float("nan")) for epoch in judged]
        axes[0].plot(judged, losses, marker="s", color=_DEV, label="dev, cross entropy")
    axes[0].set(title="Loss", xlabel="Epoch")
    for axis, (name, label) in zip(axes[1:], (("auroc", "AUROC"), ("kappa", "Cohen's kappa")), strict=True):
        for split, colour, marker in (("train", _TRAIN, "o"), ("dev", _DEV, "s")):
            values = [_value(history[epoch - 1].get(split), name) for epoch in judged]
            axis.plot(judged, values, marker=marker, color=colour, label=split)
        axis.set(title=f"{label} of studies", xlabel="Epoch", ylim=(min(0.0, axis.get_ylim()[0]), 1.02))
    last = [epoch for epoch in judged if history[epoch - 1]["stage"] == history[-1]["stage"]]
    if last:  # the checkpoint is the best of the last stage
        best = max(last, key=lambda epoch: score_of(history[epoch - 1]["dev"], selected_by))
        kept = history[best - 1]
        for axis in axes[1:]:
            axis.axvline(best, color="0.6", linestyle=":", label=f"best: {kept['stage']}, epoch {kept['epoch']}")
    for axis in axes:
        axis.legend(loc="best", fontsize="small")
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)


def _value(metrics: dict[str, Any] | None, name: str) -> float:
    value = (metrics or {}).get(name)
    return float("nan") if value is None else float(value)
