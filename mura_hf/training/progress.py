"""How far a run is, and what an epoch has shown so far."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from scipy.special import expit

from ..data import StudyDataset, ViewDataset
from ..metrics import aggregate_studies, classification_metrics


@dataclass
class Progress:
    """How far a run is; all of it is kept with its state.

    Attributes:
        stage: Number of the stage, from 0 on.
        epoch: Epochs that are over in it, judged and reported.
        step: Steps that are over in the epoch at hand; all of them where only its judgement is still to come.
        total: Steps of the run.
        skipped: Of the epoch's steps, those that were left out since their loss was not finite.
        seconds: That the run has worked, in this go and those before.
        samples: SHA-256 over the rows that were met, epoch after epoch, each hashed with the one before.
        resumed: How often the run was taken up.
        history: A record an epoch.
        best: The record of the stage's best epoch; None before there is one.
        top: Epoch -> score, of those whose weights are to be averaged.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    total: int = 0
    skipped: int = 0
    seconds: float = 0.0
    samples: str = ""
    resumed: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    top: dict[int, float] = field(default_factory=dict)

    def next_epoch(self) -> None:
        """The epoch is over."""
        self.epoch, self.step, self.skipped = self.epoch + 1, 0, 0

    def next_stage(self) -> None:
        """The stage is over."""
        self.stage, self.epoch, self.step, self.skipped, self.best, self.top = self.stage + 1, 0, 0, 0, None, {}


class Tally:
    """What one process met in an epoch: rows, the answers given to them, and the losses of its steps.

    It stays on the device until it is asked for, so that no step waits for it.
    """

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.margins: list[torch.Tensor] = []
        self.losses: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor, logits: torch.Tensor) -> None:
        """Takes note of a batch: its rows `[B]` and the logits `[B, 2]` that were given."""
        answers = logits.detach().float()
        self.rows.append(rows)
        self.margins.append(answers[:, 1] - answers[:, 0])

    def add_loss(self, loss: torch.Tensor) -> None:
        """Takes note of a step's loss, a scalar."""
        self.losses.append(loss.detach().float())

    def to_dict(self) -> dict[str, torch.Tensor]:
        """On the CPU: `rows`, `margins` and `losses`, all `[n]`."""
        kept = {"rows": self.rows, "margins": self.margins, "losses": [loss.reshape(1) for loss in self.losses]}
        return {name: torch.cat(values).cpu() if values else torch.zeros(0) for name, values in kept.items()}

    @classmethod
    def from_dict(cls, kept: dict[str, torch.Tensor], device: torch.device) -> "Tally":
        """What `to_dict` gave."""
        tally = cls()
        if len(kept["rows"]):
            tally.rows, tally.margins = [kept["rows"].to(device)], [kept["margins"].to(device)]
        tally.losses = list(kept["losses"].to(device))
        return tally

    def gather(self, accelerator: Accelerator) -> "EpochTally":
        """What all processes met; called by each."""
        rows, margins = torch.cat(self.rows), torch.cat(self.margins)
        # Every process has met as many rows: batches that are not full are left out, or shared evenly.
        rows, margins = accelerator.gather(rows), accelerator.gather(margins)
        loss = accelerator.reduce(torch.stack(self.losses).mean(), "mean")
        return EpochTally(rows.cpu().numpy(), margins.cpu().numpy().astype(np.float64), float(loss))


@dataclass(frozen=True)
class EpochTally:
    """What an epoch has shown, over all processes.

    Attributes:
        rows: int64 `[n]`; numbers of views, or of studies at study level.
        margins: float64 `[n]`, logit of abnormal minus that of normal, as it was when the row was met.
        loss: Mean over steps and processes.
    """

    rows: np.ndarray
    margins: np.ndarray
    loss: float

    def digest(self, before: str) -> str:
        """SHA-256 over the rows met, in their order, and a digest before it."""
        return hashlib.sha256(before.encode() + self.rows.astype("<i8").tobytes()).hexdigest()

    def costs(self, views: ViewDataset | StudyDataset) -> np.ndarray:
        """Cross entropy of each row met, float64 `[n]`, not weighted and not smoothed.

        Args:
            views: What was met.
        """
        labels = _known(views)[0][self.rows]
        return np.logaddexp(0, np.where(labels == 1, -self.margins, self.margins))

    def study_metrics(self, views: ViewDataset | StudyDataset) -> dict[str, Any]:
        """`classification_metrics` of the studies met, of pictures as they were augmented and weights as they were.

        Args:
            views: What was met.
        """
        labels, ids = _known(views)
        studies, means = aggregate_studies([ids[row] for row in self.rows], expit(self.margins))
        known = {ids[row]: labels[row] for row in self.rows}
        return classification_metrics(np.asarray([known[study] for study in studies]), means)


def _known(views: ViewDataset | StudyDataset) -> tuple[np.ndarray, list[str]]:
    """Label and study of each row of a dataset."""
    if isinstance(views, StudyDataset):
        labels = views.views.rows["label"]
        return np.asarray([labels[members[0]] for members in views.members]), list(views.study_ids)
    return np.asarray(views.rows["label"]), list(views.rows["study_id"])
