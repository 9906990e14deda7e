"""A plot of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_curves(history: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draws training loss and the study-level figures of `dev` by epoch, stage after stage.

    Args:
        history: A record an epoch with `train_loss` and `dev`: a dict with `auroc` and `kappa`, None where not
            defined, or None for an epoch that was not judged.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    judged = {epoch: record["dev"] for epoch, record in zip(epochs, history, strict=True) if record["dev"]}
    left.plot(epochs, [record["train_loss"] for record in history], marker="o", color="#1f4e79")
    left.set(title="Training loss", xlabel="Epoch", ylabel="Loss")
    for name, label, marker in (("auroc", "AUROC", "o"), ("kappa", "Cohen's kappa", "s")):
        values = [float("nan") if dev[name] is None else dev[name] for dev in judged.values()]
        right.plot(list(judged), values, marker=marker, label=label)
    last = [epoch for epoch in judged if history[epoch - 1]["stage"] == history[-1]["stage"]]
    if last:  # the checkpoint is the best of the last stage
        best = max(last, key=lambda epoch: judged[epoch]["auroc"] or 0.0)
        right.axvline(
            best,
            color="0.6",
            linestyle=":",
            label=f"kept: {history[best - 1]['stage']}, epoch {history[best - 1]['epoch']}",
        )
    right.set(title="Studies of dev", xlabel="Epoch", ylim=(min(0.0, right.get_ylim()[0]), 1.02))
    right.legend(loc="lower right")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)
