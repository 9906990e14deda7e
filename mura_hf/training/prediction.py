"""A model over a whole split."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class SplitPredictions:
    """What a model says of each view, beside the truth; all arrays `[n]`, in the order of the dataset.

    Attributes:
        probabilities: float64, P(abnormal) of the view.
        labels: int64, 0 normal and 1 abnormal.
        study_ids: The view's study.
        patient_ids: The view's patient.
        body_parts: int64, the true part as an index; `UNKNOWN_PART` where it is not known.
        found_parts: int64, the part that the model finds; None without that head.
        pooled: Study -> its P(abnormal) before calibration, where the model pools views in another way than by the
            mean of their probabilities; else None.
        single_view_probabilities: float64, P(abnormal) before calibration of a study that has only this view, if the
            model does not pool by the mean; else None, since it equals the probability of the view.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    study_ids: list[str]
    patient_ids: list[str]
    body_parts: np.ndarray
    found_parts: np.ndarray | None
    pooled: dict[str, float] | None = None
    single_view_probabilities: np.ndarray | None = None

    def by_study(self) -> dict[str, tuple[float, int, str, int]]:
        """Study id -> pooled probability (the mean, mostly), label, patient and body part."""
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

    def with_probabilities(self, probabilities: np.ndarray) -> "SplitPredictions":
        """The same views with other probabilities `[n]`.

        Raises:
            ValueError: If the model pools views in another way than by the mean, so that it alone could tell what
                becomes of the studies.
        """
        if self.pooled is not None:
            raise ValueError("the studies were pooled by the model; change its config, and predict once more")
        return replace(self, probabilities=probabilities)

    def study_metrics(self, threshold: float = 0.5) -> dict[str, float | int | None]:
        """`classification_metrics` of the studies."""
        means, labels = self.study_probabilities()
        return classification_metrics(labels, means, threshold)

    def cross_entropy(self, *, studies: bool = False, weights: np.ndarray | None = None) -> float:
        """Mean over views, or studies, of -w log P(true label).

        Args:
            studies: Whether studies are meant.
            weights: Of normal and abnormal, `[2]`; 1 and 1 where None.
        """
        found, labels = self.study_probabilities() if studies else (self.probabilities, self.labels)
        right = np.clip(np.where(labels == 1, found, 1 - found), _EDGE, 1)
        return float(-np.mean(np.log(right) * (1.0 if weights is None else np.asarray(weights)[labels])))


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

    A model that pools views in another way than by the mean of their probabilities is given whole studies.

    Args:
        model: One that classifies, prepared or not.
        views: The split, without augmentation.
        accelerator: Gathers the processes' answers.
        batch_size: Views a step and process, about so many where studies are given whole.
        progress: Text of the progress bar; none where None.
        after_batch: Called after each batch; what it raises ends the prediction.
    """
    bare = accelerator.unwrap_model(model)
    needs_part = getattr(bare, "NEEDS_PART", False)
    studies = None if _takes_mean(bare.config) else StudyDataset(views)
    if studies is None:
        loader = DataLoader(views, batch_size=batch_size)
    else:
        loader = DataLoader(studies, batch_size=max(1, batch_size // _VIEWS_A_STUDY), collate_fn=collate_studies)
    loader = accelerator.prepare_data_loader(loader)
    was_training = model.training
    model.eval()
    collected: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for batch in tqdm(
            loader, desc=progress, disable=progress is None or not accelerator.is_main_process, leave=False
        ):
            given = {"body_parts": batch["body_parts"]} if needs_part else {}
            if studies is not None:
                given["view_mask"] = batch["view_mask"]
            output = model(pixel_values=batch["pixel_values"], **given)
            found = {"index": batch["index"], **_found(output, batch.get("view_mask"), accelerator, bare.config)}
            for name, values in accelerator.gather_for_metrics(found).items():
                collected.setdefault(name, []).append(values.cpu().numpy())
            if after_batch is not None:
                after_batch()
    model.train(was_training)
    return _arrange(collected, views, studies)


_VIEWS_A_STUDY = 3  # about


def _takes_mean(config: Any) -> bool:
    """Whether a study's probability is the mean of its views'."""
    # Members answer for studies in their own ways.
    return getattr(config, "members", None) is None and config.study_pooling == "mean"


def _found(output: Any, mask: torch.Tensor | None, accelerator: Accelerator, config: Any) -> dict[str, torch.Tensor]:
    """What is kept of a batch's output, alike in shape on all processes."""
    logits = (output.logits if mask is None else output.view_logits).float()
    found = {"margin": (logits[..., 1] - logits[..., 0]).contiguous()}
    if mask is not None:
        found["margin"] = accelerator.pad_across_processes(found["margin"].masked_fill(~mask, torch.nan), 1)
        found["pooled"] = output.pooled_logit.float()
        bare = (output.single_view_logit.float() - config.study_intercept) / config.study_slope
        found["single_view"] = accelerator.pad_across_processes(bare.masked_fill(~mask, torch.nan), 1)
    if output.body_part_logits is not None:
        found["part"] = output.body_part_logits.argmax(-1)
    return found


def _arrange(
    collected: dict[str, list[np.ndarray]], views: ViewDataset, studies: StudyDataset | None
) -> SplitPredictions:
    """The batches' answers in the order of the views."""
    order = np.argsort(np.concatenate(collected["index"]))
    parts = np.concatenate(collected["part"])[order] if "part" in collected else None
    rows, pooled, single_view = views.rows, None, None
    if studies is None:
        margins = np.concatenate(collected["margin"])[order]
    else:
        margins, single_view = (
            _by_view(collected[name], order, studies, len(rows)) for name in ("margin", "single_view")
        )
        answers = expit(np.concatenate(collected["pooled"]).astype(np.float64))[order]
        pooled = dict(zip(studies.study_ids, answers.tolist(), strict=True))
        if parts is not None:
            parts = np.repeat(parts, list(map(len, studies.members)))[np.argsort(np.concatenate(studies.members))]
    return SplitPredictions(
        probabilities=expit(margins.astype(np.float64)),
        labels=np.asarray(rows["label"]),
        study_ids=list(rows["study_id"]),
        patient_ids=list(rows["patient_id"]),
        body_parts=np.asarray([UNKNOWN_PART if part is None else part for part in rows["body_part"]]),
        found_parts=parts,
        pooled=pooled,
        single_view_probabilities=None if single_view is None else expit(single_view.astype(np.float64)),
    )


def _by_view(batches: list[np.ndarray], order: np.ndarray, studies: StudyDataset, n: int) -> np.ndarray:
    """Values that came by study, padded, in the order of the views: `[n]`."""
    by_study = [line for batch in batches for line in batch]
    values = np.empty(n, np.float32)
    for number, members in enumerate(studies.members):
        values[members] = by_study[order[number]][: len(members)]
    return values
