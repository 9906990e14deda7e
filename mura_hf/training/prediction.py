"""Predictions of a model for a whole split, and those that training made during an epoch."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from scipy.special import expit
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data import UNKNOWN_PART, StudyDataset, ViewDataset, collate_studies
from ..metrics import aggregate_studies, classification_metrics

_EDGE = 1e-12
_VIEWS_PER_STUDY = 3  # about

SELECTIONS = {
    "auroc": "AUROC", "auprc": "AUPRC", "kappa": "kappa", "f1": "F1", "accuracy": "accuracy", "brier": "Brier score",
}  # fmt: skip
"""Study-level figures on dev that can select an epoch -> their names in sentences."""


def selection_score(metrics: Mapping[str, Any], select_by: str) -> float:
    """Score by which an epoch is ranked, higher is better; minus infinity if the figure is not defined."""
    value = metrics[select_by]
    if value is None:
        return float("-inf")
    return -float(value) if select_by == "brier" else float(value)


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions for each view of a split with the ground truth. All arrays are `[n]`, in the order of the dataset.

    Attributes:
        probabilities: float64, P(abnormal) of the view.
        labels: int64, 0 normal and 1 abnormal.
        study_ids: Study of the view.
        patient_ids: Patient of the view.
        body_parts: int64, index of the true body part; `UNKNOWN_PART` if not known.
        predicted_parts: int64, the predicted body part; None without that head.
        predicted_regions: int64, the predicted region, an index into `regions` of the config; None without that head.
        pooled: Study -> its P(abnormal) before calibration, if the model does not pool views by the mean of their
            probabilities; else None.
        single_view_probabilities: float64, P(abnormal) before calibration of a study that has only this view, if the
            model does not pool by the mean; else None, since it equals the probability of the view.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    study_ids: list[str]
    patient_ids: list[str]
    body_parts: np.ndarray
    predicted_parts: np.ndarray | None
    pooled: dict[str, float] | None = None
    single_view_probabilities: np.ndarray | None = None
    predicted_regions: np.ndarray | None = None

    @property
    def body_part_accuracy(self) -> float | None:
        """Share of correct body parts among the views whose true one is known; None if there are none, or no head."""
        known = self.body_parts != UNKNOWN_PART
        if self.predicted_parts is None or not known.any():
            return None
        return float(np.mean((self.predicted_parts == self.body_parts)[known]))

    def by_study(self) -> dict[str, tuple[float, int, str, int]]:
        """Study id -> pooled probability (usually the mean), label, patient and body part."""
        studies, means = aggregate_studies(self.study_ids, self.probabilities)
        if self.pooled is not None:
            means = np.asarray([self.pooled[study] for study in studies])
        first = {study: place for place, study in reversed(list(enumerate(self.study_ids)))}
        return {
            study: (float(mean), int(self.labels[row]), self.patient_ids[row], int(self.body_parts[row]))
            for study, mean in zip(studies, means, strict=True)
            for row in [first[study]]
        }

    def study_probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """Pooled probabilities and labels of the studies, float64 `[n]` and int64 `[n]`."""
        means, labels, _, _ = zip(*self.by_study().values(), strict=True)
        return np.asarray(means, np.float64), np.asarray(labels, np.int64)

    def study_metrics(self, threshold: float = 0.5) -> dict[str, float | int | None]:
        """`classification_metrics` of the studies."""
        means, labels = self.study_probabilities()
        return classification_metrics(labels, means, threshold)

    def cross_entropy(self, *, studies: bool = False, weights: np.ndarray | None = None) -> float:
        """Mean over views, or studies, of -w log P(true label), with the weights of normal and abnormal `[2]`."""
        found, labels = self.study_probabilities() if studies else (self.probabilities, self.labels)
        correct = np.clip(np.where(labels == 1, found, 1 - found), _EDGE, 1)
        return float(-np.mean(np.log(correct) * (1.0 if weights is None else np.asarray(weights)[labels])))


def predict_views(
    model: nn.Module,
    views: ViewDataset,
    accelerator: Accelerator,
    *,
    batch_size: int = 32,
    progress: str | None = None,
    after_batch: Callable[[], None] | None = None,
) -> SplitPredictions:
    """Runs a model over every view of a split, on all processes.

    A model that does not pool views by the mean of their probabilities gets whole studies.

    Args:
        model: A classifier, prepared by Accelerate or not.
        views: The split, without augmentation.
        accelerator: Gathers the predictions of all processes.
        batch_size: Views per step and process, approximately if the model gets whole studies.
        progress: Text of the progress bar; None for no bar.
        after_batch: Called after each batch; an exception ends the prediction.
    """
    bare = accelerator.unwrap_model(model)
    needs_part = getattr(bare, "NEEDS_PART", False)
    by_mean = getattr(bare.config, "members", None) is None and bare.config.study_pooling == "mean"
    studies = None if by_mean else StudyDataset(views)
    if studies is None:
        loader = DataLoader(views, batch_size=batch_size)
    else:
        loader = DataLoader(studies, batch_size=max(1, batch_size // _VIEWS_PER_STUDY), collate_fn=collate_studies)
    loader = accelerator.prepare_data_loader(loader)
    was_training = model.training
    model.eval()
    collected: dict[str, list[np.ndarray]] = {}
    hidden = progress is None or not accelerator.is_main_process
    with torch.inference_mode():
        for batch in tqdm(loader, desc=progress, disable=hidden, leave=False):
            inputs = {"body_parts": batch["body_parts"]} if needs_part else {}
            if studies is not None:
                inputs["view_mask"] = batch["view_mask"]
            output = model(pixel_values=batch["pixel_values"], **inputs)
            found = _predictions(output, batch.get("view_mask"), accelerator, bare.config)
            found["index"] = batch["index"]
            for name, values in accelerator.gather_for_metrics(found).items():
                collected.setdefault(name, []).append(values.cpu().numpy())
            if after_batch is not None:
                after_batch()
    model.train(was_training)
    return _arrange(collected, views, studies)


def _predictions(
    output: Any, mask: torch.Tensor | None, accelerator: Accelerator, config: Any
) -> dict[str, torch.Tensor]:
    """What is kept of a batch's output, with the same shape on all processes."""
    logits = (output.logits if mask is None else output.view_logits).float()
    found = {"margin": (logits[..., 1] - logits[..., 0]).contiguous()}
    if mask is not None:
        found["margin"] = accelerator.pad_across_processes(found["margin"].masked_fill(~mask, torch.nan), 1)
        found["pooled"] = output.pooled_logit.float()
        single = (output.single_view_logit.float() - config.study_intercept) / config.study_slope
        found["single_view"] = accelerator.pad_across_processes(single.masked_fill(~mask, torch.nan), 1)
    for name, logits in (("part", output.body_part_logits), ("region", output.region_logits)):
        if logits is not None:
            found[name] = logits.argmax(-1)
    return found


def _arrange(
    collected: dict[str, list[np.ndarray]], views: ViewDataset, studies: StudyDataset | None
) -> SplitPredictions:
    """The predictions of all batches in the order of the views."""
    order = np.argsort(np.concatenate(collected["index"]))
    classes = {name: np.concatenate(collected[name])[order] for name in ("part", "region") if name in collected}
    rows, pooled, single_view = views.rows, None, None
    if studies is None:
        margins = np.concatenate(collected["margin"])[order]
    else:
        margins, single_view = (
            _by_view(collected[name], order, studies, len(rows)) for name in ("margin", "single_view")
        )
        probabilities = expit(np.concatenate(collected["pooled"]).astype(np.float64))[order]
        pooled = dict(zip(studies.study_ids, probabilities.tolist(), strict=True))
        sizes, places = list(map(len, studies.members)), np.argsort(np.concatenate(studies.members))
        classes = {name: np.repeat(values, sizes)[places] for name, values in classes.items()}
    return SplitPredictions(
        probabilities=expit(margins.astype(np.float64)),
        labels=np.asarray(rows["label"]),
        study_ids=list(rows["study_id"]),
        patient_ids=list(rows["patient_id"]),
        body_parts=np.asarray([UNKNOWN_PART if part is None else part for part in rows["body_part"]]),
        predicted_parts=classes.get("part"),
        predicted_regions=classes.get("region"),
        pooled=pooled,
        single_view_probabilities=None if single_view is None else expit(single_view.astype(np.float64)),
    )


def _by_view(batches: list[np.ndarray], order: np.ndarray, studies: StudyDataset, n: int) -> np.ndarray:
    """Padded values by study in the order of the views: `[n]`."""
    by_study = [line for batch in batches for line in batch]
    values = np.empty(n, np.float32)
    for number, members in enumerate(studies.members):
        values[members] = by_study[order[number]][: len(members)]
    return values


@dataclass
class EpochMetrics:
    """Collects rows, predictions and losses of the steps of an epoch in one process.

    Values stay on the device until they are needed, so that no step waits for them.
    """

    rows: list[torch.Tensor] = field(default_factory=list)
    margins: list[torch.Tensor] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)

    def add(self, rows: torch.Tensor, logits: torch.Tensor) -> None:
        """Adds a batch: its rows `[B]` and logits `[B, 2]`."""
        logits = logits.detach().float()
        self.rows.append(rows)
        self.margins.append(logits[:, 1] - logits[:, 0])

    def add_loss(self, loss: torch.Tensor) -> None:
        """Adds the loss of a step, a scalar."""
        self.losses.append(loss.detach().float())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """`rows`, `margins` and `losses` on the CPU, all `[n]`."""
        kept = {"rows": self.rows, "margins": self.margins, "losses": [loss.reshape(1) for loss in self.losses]}
        return {name: torch.cat(values).cpu() if values else torch.zeros(0) for name, values in kept.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor], device: torch.device) -> "EpochMetrics":
        """Restores a state of `state_dict`."""
        metrics = cls()
        if len(state["rows"]):
            metrics.rows, metrics.margins = [state["rows"].to(device)], [state["margins"].to(device)]
        metrics.losses = list(state["losses"].to(device))
        return metrics

    def gather(self, accelerator: Accelerator) -> "EpochResult":
        """Result over all processes; called by each."""
        rows, margins = torch.cat(self.rows), torch.cat(self.margins)
        # All processes have the same number of rows: incomplete batches are dropped, or shared evenly.
        rows, margins = accelerator.gather(rows), accelerator.gather(margins)
        loss = accelerator.reduce(torch.stack(self.losses).mean(), "mean")
        return EpochResult(rows.cpu().numpy(), margins.cpu().numpy().astype(np.float64), float(loss))


@dataclass(frozen=True)
class EpochResult:
    """Predictions and loss of an epoch over all processes."""

    rows: np.ndarray  # int64 `[n]`; rows of views, or of studies at study level, in the order of training
    margins: np.ndarray  # float64 `[n]`; logit of abnormal minus logit of normal, at the time of the step
    loss: float  # mean over steps and processes

    def digest(self, before: str) -> str:
        """SHA-256 of the previous digest and the rows in their order."""
        return hashlib.sha256(before.encode() + self.rows.astype("<i8").tobytes()).hexdigest()

    def study_metrics(self, views: ViewDataset | StudyDataset) -> dict[str, Any]:
        """`classification_metrics` of the studies, with augmented images and the weights at the time of each step."""
        labels, ids = _labels_and_studies(views)
        studies, means = aggregate_studies([ids[row] for row in self.rows], expit(self.margins))
        known = {ids[row]: labels[row] for row in self.rows}
        return classification_metrics(np.asarray([known[study] for study in studies]), means)


def _labels_and_studies(views: ViewDataset | StudyDataset) -> tuple[np.ndarray, list[str]]:
    """Label and study of each row of a dataset."""
    if isinstance(views, StudyDataset):
        labels = views.views.rows["label"]
        return np.asarray([labels[members[0]] for members in views.members]), list(views.study_ids)
    return np.asarray(views.rows["label"]), list(views.rows["study_id"])
